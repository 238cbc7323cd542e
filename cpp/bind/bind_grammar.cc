// The grammar engine's part of tokloom._core. Signatures and documentation are in _core.pyi.

#include "bind/bind_grammar.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/vector.h>

#include <exception>
#include <utility>

#include "grammar/grammar_problem.h"
#include "grammar/grammar_program.h"
#include "grammar/grammar_reader.h"
#include "grammar/logits.h"
#include "base/pool.h"

namespace nb = nanobind;

namespace tokloom {

namespace {

using Bitmask = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bitmasks = nb::ndarray<int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void check_words(size_t got, const GrammarProgram& program) {
  if (got == program.words()) return;
  throw nb::value_error(("out has " + std::to_string(got) + " words a row, the vocabulary needs " +
                         std::to_string(program.words()))
                            .c_str());
}

void check_rows(size_t got, size_t needed) {
  if (got == needed) return;
  throw nb::value_error(("out has " + std::to_string(got) + " rows, expected " + std::to_string(needed)).c_str());
}

// A message may quote what is not text.
nb::object as_text(std::string_view text) {
  return nb::steal(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

// Raises tokloom.errors.GrammarError.
void raise_problem(const std::exception_ptr& raised, void*) {
  try {
    std::rethrow_exception(raised);
  } catch (const GrammarProblem& problem) {
    try {
      const nb::object type = nb::module_::import_("tokloom.errors").attr("GrammarError");
      const nb::object error = type(as_text(problem.where), as_text(problem.what()), as_text(problem.hint));
      PyErr_SetObject(type.ptr(), error.ptr());
    } catch (nb::python_error& error) {
      error.restore();
    }
  }
}

nb::bytes as_bytes(const std::string& text) { return nb::bytes(text.data(), text.size()); }

GrammarProgram* make_program(GrammarProgram* self, MaskCachePool& pool, Form form, SpecialTokens specials,
                             std::vector<uint32_t> ends, size_t limit) {
  for (const uint32_t token : ends) {
    if (token >= pool.vocabulary().trie().size()) throw nb::value_error("ends holds an id outside the vocabulary");
  }
  for (const auto& [text, token] : specials) {
    if (token >= pool.vocabulary().trie().size()) throw nb::value_error("specials holds an id outside the vocabulary");
  }
  const nb::gil_scoped_release unlocked;
  return new (self) GrammarProgram(pool, std::move(form), std::move(specials), std::move(ends), limit);
}

// A state with its program, which must not go before it.
struct BoundState {
  GrammarProgram* program;
  GrammarState state;
};

void mask_all(const std::vector<const BoundState*>& states, int32_t* out, size_t words, int threads) {
  parallel_for(states.size(), 1, threads, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      states[i]->program->mask(states[i]->state, reinterpret_cast<uint32_t*>(out) + i * words);
    }
  });
}

}  // namespace

void bind_grammar(nb::module_& m) {
  nb::register_exception_translator(raise_problem);

  nb::class_<Form>(m, "GrammarForm")
      .def_static("read", [](nb::handle grammar) { return read_grammar(grammar); }, nb::arg("grammar"))
      .def_static(
          "decode",
          [](const nb::bytes& data) { return Form::decode(std::string_view(data.c_str(), data.size())); },
          nb::arg("data"))
      .def_prop_ro("has_special",
                   [](const Form& self) {
                     for (const Form::Node& node : self.nodes) {
                       if (node.kind == Form::Kind::special) return true;
                     }
                     return false;
                   })
      .def("encode", [](const Form& self) { return as_bytes(self.encode()); });

  nb::class_<MaskCachePool>(m, "MaskCachePool")
      .def(nb::init<const ByteTrie&, size_t>(), nb::arg("trie"), nb::arg("limit"), nb::keep_alive<1, 2>(),
           nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("writes_all", [](const MaskCachePool& self) { return self.vocabulary().writes_all(); })
      .def_prop_ro("nbytes", &MaskCachePool::memory);

  nb::class_<BoundState>(m, "GrammarState")
      .def(
          "mask",
          [](const BoundState& self, const Bitmask& out) {
            check_words(out.shape(0), *self.program);
            auto* words = reinterpret_cast<uint32_t*>(out.data());
            const nb::gil_scoped_release unlocked;
            self.program->mask(self.state, words);
          },
          nb::arg("out").noconvert())
      .def(
          "step",
          [](const BoundState& self, int64_t token) -> nb::object {
            BoundState next = self;
            bool allowed;
            {
              const nb::gil_scoped_release unlocked;  // another thread may be making a mask under the engine's lock
              allowed = self.program->step(next.state, token);
            }
            return allowed ? nb::cast(std::move(next)) : nb::none();
          },
          nb::arg("token"))
      .def(
          "step_bytes",
          [](const BoundState& self, const nb::bytes& data) -> nb::object {
            BoundState next = self;
            const std::string_view bytes(data.c_str(), data.size());
            bool allowed;
            {
              const nb::gil_scoped_release unlocked;
              allowed = self.program->step_bytes(next.state, bytes);
            }
            return allowed ? nb::cast(std::move(next)) : nb::none();
          },
          nb::arg("data"))
      .def(
          "forced",
          [](const BoundState& self, size_t most) {
            std::string bytes;
            if (!self.state.ended) {
              const nb::gil_scoped_release unlocked;
              bytes = self.state.parser->forced(self.state.at, most);
            }
            return as_bytes(bytes);
          },
          nb::arg("maximum"))
      .def_prop_ro("ended", [](const BoundState& self) { return self.state.ended; })
      .def_prop_ro("complete", [](const BoundState& self) { return self.program->complete(self.state); })
      .def_prop_ro("stuck", [](const BoundState& self) {
                     const nb::gil_scoped_release unlocked;
                     return self.program->stuck(self.state);
                   })
      .def_prop_ro("stale", [](const BoundState& self) { return self.state.parser->full(); });

  nb::class_<GrammarProgram>(m, "GrammarProgram")
      .def("__init__", &make_program, nb::arg("pool"), nb::arg("form"), nb::arg("specials"), nb::arg("ends"),
           nb::arg("limit"), nb::keep_alive<1, 2>())
      .def("start",
           [](GrammarProgram& self) {
             BoundState state{&self, {}};
             const nb::gil_scoped_release unlocked;
             state.state = self.start();
             return state;
           })
      .def_prop_ro("nbytes", &GrammarProgram::memory);

  m.def(
      "grammar_masks",
      [](const nb::sequence& states, const Bitmasks& out, int threads) {
        std::vector<const BoundState*> all;
        for (nb::handle state : states) all.push_back(nb::cast<const BoundState*>(state));
        check_rows(out.shape(0), all.size());
        for (const BoundState* state : all) check_words(out.shape(1), *state->program);
        int32_t* words = out.data();
        const size_t row = out.shape(1);
        const nb::gil_scoped_release unlocked;
        mask_all(all, words, row, threads);
      },
      nb::arg("states"), nb::arg("out").noconvert(), nb::arg("threads"));

  m.def(
      "forbid",
      [](uintptr_t logits, const std::string& type, size_t tokens, size_t stride, const Bitmasks& masks) {
        if (type != "fp32" && type != "bf16" && type != "fp16") {
          throw nb::value_error(("type '" + type + "' is not one of fp32, bf16, fp16").c_str());
        }
        if (masks.shape(1) < (tokens + 31) / 32) throw nb::value_error("masks have fewer bits than there are tokens");
        const LogitType parsed = type == "fp32"   ? LogitType::float32
                                 : type == "bf16" ? LogitType::bfloat16
                                                  : LogitType::float16;
        const auto* words = reinterpret_cast<const uint32_t*>(masks.data());
        const size_t rows = masks.shape(0);
        const size_t width = masks.shape(1);
        const nb::gil_scoped_release unlocked;
        forbid(reinterpret_cast<void*>(logits), parsed, rows, tokens, stride, words, width);
      },
      nb::arg("logits"), nb::arg("type"), nb::arg("tokens"), nb::arg("stride"), nb::arg("masks").noconvert());
}

}  // namespace tokloom
