// tokloom._core: the Python face of the C++ core. Signatures and documentation are in _core.pyi.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bind/bind_attention.h"
#include "bind/bind_decoder.h"
#include "bind/bind_grammar.h"
#include "bind/bind_layer_plan.h"
#include "bind/bind_selection.h"
#include "linear/linear.h"
#include "linear/packing.h"
#include "grammar/token_trie.h"
#include "attention/top_k.h"

namespace nb = nanobind;
using tokloom::ByteTrie;
using tokloom::ChoiceSet;
using tokloom::Kind;
using tokloom::PackedMatrix;
using Bitmask = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

namespace {

std::vector<std::string> copy_bytes(const nb::sequence& items, const char* argument) {
  std::vector<std::string> copied;
  copied.reserve(nb::len(items));
  for (nb::handle item : items) {
    if (!nb::isinstance<nb::bytes>(item)) {
      throw nb::type_error((std::string(argument) + "[" + std::to_string(copied.size()) + "] is not bytes").c_str());
    }
    const auto value = nb::borrow<nb::bytes>(item);
    copied.emplace_back(value.c_str(), value.size());
  }
  return copied;
}

std::string copy_bytes(const nb::bytes& value) { return {value.c_str(), value.size()}; }

uint32_t checked_state(const ChoiceSet& choices, int64_t state) {
  if (state < 0 || state >= static_cast<int64_t>(choices.states())) {
    throw nb::index_error(("state " + std::to_string(state) + " is not in [0, " + std::to_string(choices.states()) +
                           "); a state comes from `start` or `step`")
                              .c_str());
  }
  return static_cast<uint32_t>(state);
}

Kind kind_of(const std::string& name) {
  if (name == "fp32") return Kind::f32;
  if (name == "bf16") return Kind::bf16;
  if (name == "int8") return Kind::level8;
  if (name == "int4") return Kind::level4;
  throw nb::value_error(("format '" + name + "' is not one of fp32, bf16, int8, int4").c_str());
}

int checked_bits(int bits) {
  if (bits != 8 && bits != 24) throw nb::value_error("prompt_bits is neither 8 nor 24");
  return bits;
}

}  // namespace

NB_MODULE(_core, m) {
  m.doc() = "The C++ core of tokloom.";
  // A vocabulary that lives as long as the process is no leak, and the report would go to the user's terminal.
  nb::set_leak_warnings(false);

  tokloom::bind_grammar(m);

  m.def(
      "top_k",
      [](uintptr_t values, size_t rows, size_t width, size_t k, uintptr_t out) {
        if (k > width) throw nb::value_error("k exceeds the width");
        tokloom::top_k(reinterpret_cast<const float*>(values), rows, width, k, reinterpret_cast<int32_t*>(out));
      },
      nb::call_guard<nb::gil_scoped_release>(), nb::arg("values"), nb::arg("rows"), nb::arg("width"), nb::arg("k"),
      nb::arg("out"));
  m.def("kernels", [] { return tokloom::kernels().name; });
  tokloom::bind_attention(m);
  tokloom::bind_selection(m);
  tokloom::bind_layer_plan(m);
  tokloom::bind_decoder(m);

  nb::class_<PackedMatrix>(m, "PackedMatrix")
      .def(
          "__init__",
          [](PackedMatrix* self, uintptr_t weights, size_t outputs, size_t inputs, const std::string& format,
             int prompt_bits, int threads) {
            const Kind kind = kind_of(format);
            checked_bits(prompt_bits);
            nb::gil_scoped_release unlocked;
            new (self) PackedMatrix(reinterpret_cast<const float*>(weights), outputs, inputs, kind, prompt_bits,
                                    threads);
          },
          nb::arg("weights"), nb::arg("outputs"), nb::arg("inputs"), nb::arg("format"), nb::arg("prompt_bits"),
          nb::arg("threads"))
      .def_static(
          "from_gguf",
          [](uintptr_t blocks, size_t bytes, int type, size_t outputs, size_t inputs, int prompt_bits,
             int threads) {
            checked_bits(prompt_bits);
            const size_t row = tokloom::kind_of_gguf(type) ? tokloom::gguf_row_bytes(type, inputs) : 0;
            if (row == 0 || inputs % tokloom::kGroup || bytes != row * outputs)
              throw nb::value_error("blocks is not a matrix of that type and shape");
            return PackedMatrix(reinterpret_cast<const uint8_t*>(blocks), type, outputs, inputs, prompt_bits,
                                threads);
          },
          nb::call_guard<nb::gil_scoped_release>(), nb::arg("blocks"), nb::arg("bytes"), nb::arg("type"),
          nb::arg("outputs"), nb::arg("inputs"), nb::arg("prompt_bits"), nb::arg("threads"))
      .def(
          "apply",
          [](const PackedMatrix& self, uintptr_t x, size_t rows, uintptr_t out, int threads) {
            tokloom::Rows input(reinterpret_cast<const float*>(x), rows, self.inputs());
            self.apply(input, reinterpret_cast<float*>(out), self.outputs(), threads);
          },
          nb::call_guard<nb::gil_scoped_release>(), nb::arg("x"), nb::arg("rows"), nb::arg("out"), nb::arg("threads"))
      .def(
          "unpack",
          [](const PackedMatrix& self, uintptr_t weights) { self.unpack(reinterpret_cast<float*>(weights)); },
          nb::call_guard<nb::gil_scoped_release>(), nb::arg("weights"))
      .def_prop_ro("nbytes", &PackedMatrix::bytes);

  nb::class_<ByteTrie>(m, "TokenTrie")
      .def(
          "__init__",
          [](ByteTrie* self, const nb::sequence& tokens) {
            std::vector<std::string> keys = copy_bytes(tokens, "tokens");
            nb::gil_scoped_release unlocked;
            new (self) ByteTrie(std::move(keys));
          },
          nb::arg("tokens"))
      .def_prop_ro("size", &ByteTrie::size)
      .def_prop_ro("nodes", &ByteTrie::nodes)
      .def(
          "token_bytes",
          [](const ByteTrie& self, int64_t token) {
            if (token < 0 || token >= static_cast<int64_t>(self.size())) {
              throw nb::index_error(("token " + std::to_string(token) + " is not in [0, " +
                                     std::to_string(self.size()) + ")")
                                        .c_str());
            }
            const std::string_view text = self.key(static_cast<size_t>(token));
            return nb::bytes(text.data(), text.size());
          },
          nb::arg("token"))
      .def(
          "tokens_with_prefix",
          [](const ByteTrie& self, const nb::bytes& prefix) {
            const uint32_t node = self.find(0, copy_bytes(prefix));
            if (node == ByteTrie::kNone) return std::vector<uint32_t>{};
            return std::vector<uint32_t>(self.keys_begin(node), self.subtree_end(node));
          },
          nb::arg("prefix"))
      .def(
          "prefixes_of",
          [](const ByteTrie& self, const nb::bytes& text) {
            std::vector<uint32_t> found;
            uint32_t node = 0;
            for (size_t i = 0; i < text.size(); ++i) {
              node = self.child(node, static_cast<uint8_t>(text.c_str()[i]));
              if (node == ByteTrie::kNone) break;
              found.insert(found.end(), self.keys_begin(node), self.keys_end(node));
            }
            return found;
          },
          nb::arg("text"));

  nb::class_<ChoiceSet>(m, "ChoiceSet")
      .def(
          "__init__",
          [](ChoiceSet* self, const ByteTrie& trie, const nb::sequence& choices) {
            std::vector<std::string> keys = copy_bytes(choices, "choices");
            if (keys.empty()) throw nb::value_error("choices is empty: at least one is needed");
            for (size_t i = 0; i < keys.size(); ++i) {
              if (keys[i].empty()) {
                throw nb::value_error(("choices[" + std::to_string(i) + "] is empty").c_str());
              }
            }
            nb::gil_scoped_release unlocked;
            new (self) ChoiceSet(trie, std::move(keys));
          },
          nb::arg("trie"), nb::arg("choices"), nb::keep_alive<1, 2>())  // it holds a reference to the trie
      .def_prop_ro_static("start", [](nb::handle) { return 0; })
      .def_prop_ro("states", &ChoiceSet::states)
      .def_prop_ro("unspellable", &ChoiceSet::unspellable)
      .def(
          "mask",
          [](const ChoiceSet& self, int64_t state, const Bitmask& out) {
            const uint32_t from = checked_state(self, state);
            if (out.shape(0) != self.words()) {
              throw nb::value_error(("out has " + std::to_string(out.shape(0)) + " words, the vocabulary needs " +
                                     std::to_string(self.words()))
                                        .c_str());
            }
            int32_t* words = out.data();
            nb::gil_scoped_release unlocked;
            self.mask(from, words);
          },
          nb::arg("state"), nb::arg("out").noconvert())
      .def(
          "step",
          [](const ChoiceSet& self, int64_t state, int64_t token) {
            return self.step(checked_state(self, state), token);
          },
          nb::arg("state"), nb::arg("token"))
      .def(
          "complete",
          [](const ChoiceSet& self, int64_t state) { return self.complete(checked_state(self, state)); },
          nb::arg("state"))
      .def(
          "final", [](const ChoiceSet& self, int64_t state) { return self.final(checked_state(self, state)); },
          nb::arg("state"))
      .def(
          "forced",
          [](const ChoiceSet& self, int64_t state) { return self.forced(checked_state(self, state)); },
          nb::arg("state"));
}
