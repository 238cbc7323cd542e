// The Python face of decoder.h and kv_buffer.h; signatures and documentation are in _core.pyi.
#include "bind/bind_decoder.h"

#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/bind_attention.h"
#include "bind/bind_pointer.h"
#include "linear/decoder.h"

namespace nb = nanobind;
using tokloom::pointer;
using tokloom::Decoder;
using tokloom::Destination;
using tokloom::KVBuffer;
using tokloom::Layer;
using tokloom::LayerPlan;
using tokloom::Linear;
using tokloom::Norm;
using tokloom::PackedMatrix;
using tokloom::Pass;
using tokloom::Sequence;

namespace {

using NormArgument = std::pair<uintptr_t, float>;

using Destinations = std::vector<std::pair<const KVBuffer*, size_t>>;  // a buffer and the first slot, per sequence

std::vector<Destination> destinations_of(const Destinations& pairs, const Pass& pass) {
  if (pairs.size() != pass.sequences.size()) throw nb::value_error("there is not one buffer for each sequence");
  std::vector<Destination> to;
  for (const auto& [buffer, start] : pairs) to.push_back({buffer, start});
  return to;
}

using Plans = std::vector<std::vector<std::optional<LayerPlan*>>>;  // by layer and sequence; none at all: all dense

std::vector<std::vector<LayerPlan*>> plans_of(const Plans& plans, const Decoder& decoder, const Pass& pass) {
  std::vector<std::vector<LayerPlan*>> out(decoder.layers(), std::vector<LayerPlan*>(pass.sequences.size()));
  if (plans.empty()) return out;
  if (plans.size() != out.size()) throw nb::value_error("there are not plans for each layer");
  for (size_t layer = 0; layer < out.size(); ++layer) {
    if (plans[layer].size() != out[layer].size()) throw nb::value_error("there is not one plan for each sequence");
    for (size_t i = 0; i < out[layer].size(); ++i) out[layer][i] = plans[layer][i].value_or(nullptr);
  }
  return out;
}

Norm norm_of(const NormArgument& norm) { return {pointer<const float>(norm.first), norm.second}; }

}  // namespace

void tokloom::bind_decoder(nb::module_& m) {
  nb::class_<KVBuffer>(m, "KVBuffer")
      .def(
          "__init__",
          [](KVBuffer* self, uintptr_t keys, uintptr_t values, uintptr_t key_scales, uintptr_t value_scales,
             uintptr_t centres, uintptr_t positions, uintptr_t bases, uintptr_t holes, size_t kv_heads, size_t capacity, size_t head_dim,
             const std::string& storage) {
            new (self) KVBuffer{pointer<void>(keys),          pointer<void>(values),          pointer<float>(key_scales),
                                pointer<float>(value_scales), pointer<float>(centres), pointer<int32_t>(positions),    pointer<const int64_t>(bases),
                                pointer<const int64_t>(holes), kv_heads, capacity, head_dim, storage_of(storage)};
          },
          nb::kw_only(), nb::arg("keys"), nb::arg("values"), nb::arg("key_scales"), nb::arg("value_scales"),
          nb::arg("centres"), nb::arg("positions"), nb::arg("bases"), nb::arg("holes"), nb::arg("kv_heads"), nb::arg("capacity"),
          nb::arg("head_dim"), nb::arg("storage"));

  nb::class_<Pass>(m, "Pass").def(
      "__init__",
      [](Pass* self, uintptr_t hidden, const std::vector<std::pair<size_t, uintptr_t>>& sequences, uintptr_t positions,
         const std::vector<std::pair<uintptr_t, uintptr_t>>& rotary, int threads, bool torch_threads, uintptr_t tap,
         size_t tapped) {
        size_t rows = 0;
        std::vector<Sequence> each;
        for (const auto& [count, own] : sequences) each.push_back({count, pointer<const uint8_t>(own)}), rows += count;
        std::vector<Rotary> tables;
        for (const auto& [cosines, sines] : rotary)
          tables.push_back({pointer<const float>(cosines), pointer<const float>(sines)});
        new (self) Pass{pointer<float>(hidden), rows, pointer<const int32_t>(positions), std::move(each),
                        std::move(tables), threads, torch_threads ? parallel_for_torch : parallel_for,
                        pointer<float>(tap), tapped};
      },
      nb::arg("hidden"), nb::arg("sequences"), nb::arg("positions"), nb::arg("rotary"), nb::arg("threads"),
      nb::arg("torch_threads"), nb::arg("tap") = 0, nb::arg("tapped") = 0);

  nb::class_<Decoder>(m, "Decoder")
      .def(
          "__init__",
          [](Decoder* self, size_t hidden, const NormArgument& norm, const PackedMatrix& head, uintptr_t bias) {
            new (self) Decoder(hidden, norm_of(norm), Linear{&head, pointer<const float>(bias)});
          },
          nb::arg("hidden"), nb::arg("norm"), nb::arg("head"), nb::arg("bias"), nb::keep_alive<1, 4>())
      .def(
          "add",
          [](Decoder& self, const std::array<NormArgument, 6>& norms, const nb::list& matrices,
             const std::array<uintptr_t, 7>& biases, size_t heads, size_t kv_heads, size_t head_dim, float scale,
             float softcap, int32_t window, size_t rotary, bool gelu) {
            if (nb::len(matrices) != 7) throw nb::value_error("matrices are not seven");
            std::array<Linear, 7> linears;
            for (size_t i = 0; i < 7; ++i)
              linears[i] = {&nb::cast<const PackedMatrix&>(matrices[i]), pointer<const float>(biases[i])};
            const auto& [q, k, v, o, gate, up, down] = linears;
            self.add(Layer{norm_of(norms[0]), norm_of(norms[1]), norm_of(norms[2]), norm_of(norms[3]),
                           norm_of(norms[4]), norm_of(norms[5]), q, k, v, o, gate, up, down, heads, kv_heads, head_dim,
                           scale, softcap, window, rotary, gelu});
          },
          nb::kw_only(), nb::arg("norms"), nb::arg("matrices"), nb::arg("biases"), nb::arg("heads"),
          nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("scale"), nb::arg("softcap"), nb::arg("window"),
          nb::arg("rotary"), nb::arg("gelu"), nb::keep_alive<1, 3>())
      .def(
          "attention_in",
          [](const Decoder& self, size_t layer, const Pass& pass, const Destinations& to, uintptr_t queries) {
            const auto destinations = destinations_of(to, pass);
            nb::gil_scoped_release unlocked;
            self.attention_in(layer, pass, destinations, pointer<float>(queries));
          },
          nb::arg("layer"), nb::arg("step"), nb::arg("to"), nb::arg("queries"))
      .def(
          "attention_out",
          [](const Decoder& self, size_t layer, const Pass& pass, uintptr_t attended) {
            self.attention_out(layer, pass, pointer<const float>(attended));
          },
          nb::call_guard<nb::gil_scoped_release>(), nb::arg("layer"), nb::arg("step"), nb::arg("attended"))
      .def(
          "run",
          [](const Decoder& self, const Pass& pass, const std::vector<Destinations>& to, const Plans& plans) {
            if (to.size() != self.layers()) throw nb::value_error("there are not destinations for each layer");
            std::vector<std::vector<Destination>> layers;
            for (const Destinations& layer : to) layers.push_back(destinations_of(layer, pass));
            const auto laid_out = plans_of(plans, self, pass);
            nb::gil_scoped_release unlocked;
            self.run(pass, layers, laid_out);
          },
          nb::arg("step"), nb::arg("to"), nb::arg("plans") = Plans{})
      .def(
          "logits",
          [](const Decoder& self, const Pass& pass, size_t first, uintptr_t out) {
            self.logits(pass, first, pointer<float>(out));
          },
          nb::call_guard<nb::gil_scoped_release>(), nb::arg("step"), nb::arg("first"), nb::arg("out"));
}
