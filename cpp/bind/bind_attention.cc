// The Python face of attention.h; signatures and documentation are in _core.pyi.
#include "bind/bind_attention.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "attention/attention.h"
#include "bind/bind_pointer.h"
#include "attention/layer_plan.h"

namespace nb = nanobind;
using tokloom::pointer;
using tokloom::AttentionCall;
using tokloom::LayerPlan;
using tokloom::Storage;

namespace {

using Strides = std::pair<size_t, size_t>;

}  // namespace

Storage tokloom::storage_of(const std::string& name) {
  if (name == "fp32") return Storage::f32;
  if (name == "bf16") return Storage::bf16;
  if (name == "int8") return Storage::int8;
  if (name == "int4") return Storage::int4;
  throw nb::value_error(("storage '" + name + "' is not one of fp32, bf16, int8, int4").c_str());
}

void tokloom::bind_attention(nb::module_& m) {
  m.def(
      "attend",
      [](uintptr_t queries, Strides query_strides, uintptr_t keys, uintptr_t values, uintptr_t out, Strides out_strides,
         size_t heads, size_t kv_heads, size_t rows, size_t head_dim, size_t capacity, size_t count, float scale,
         const std::string& storage, int threads, uintptr_t key_scales, uintptr_t value_scales, uintptr_t positions,
         uintptr_t row_positions, uintptr_t own, int32_t window, float softcap, uintptr_t index, int64_t chosen,
         size_t index_heads, size_t index_rows, uintptr_t weights, uintptr_t sums, uintptr_t bases, uintptr_t holes,
         uintptr_t centres, LayerPlan* plan) {
        AttentionCall call{};
        call.storage = storage_of(storage);
        if (kv_heads == 0 || heads % kv_heads) throw nb::value_error("heads is not a multiple of kv_heads");
        if (count < rows || count > capacity) throw nb::value_error("count is not in [rows, capacity]");
        if (window > 0 && !(positions && row_positions)) throw nb::value_error("a window needs positions of both");
        if (call.storage == Storage::int8 && !(key_scales && value_scales)) throw nb::value_error("int8 needs scales");
        if (chosen >= 0 && (weights || sums)) throw nb::value_error("no weights or sums together with an index");
        if (plan && !row_positions) throw nb::value_error("a plan needs the rows' positions");
        if ((index_heads != 1 && index_heads != kv_heads) || (index_rows != 1 && index_rows != rows))
          throw nb::value_error("index is not (kv_heads or 1, rows or 1, chosen)");
        call.queries = pointer<const float>(queries);
        call.query_head_stride = query_strides.first, call.query_row_stride = query_strides.second;
        call.keys = pointer<const void>(keys), call.values = pointer<const void>(values);
        call.centres = pointer<const float>(centres);
        call.bases = pointer<const int64_t>(bases), call.holes = pointer<const int64_t>(holes);
        call.key_scales = pointer<const float>(key_scales), call.value_scales = pointer<const float>(value_scales);
        call.out = pointer<float>(out);
        call.out_head_stride = out_strides.first, call.out_row_stride = out_strides.second;
        call.heads = heads, call.kv_heads = kv_heads, call.rows = rows, call.head_dim = head_dim;
        call.capacity = capacity, call.count = count, call.past = count - rows;
        call.positions = pointer<const int32_t>(positions), call.row_positions = pointer<const int32_t>(row_positions);
        call.own = pointer<const uint8_t>(own);
        call.window = window, call.scale = scale, call.softcap = softcap;
        if (chosen >= 0) {
          static constexpr int64_t none = -1;  // an empty tensor has no address
          call.index = chosen ? pointer<const int64_t>(index) : &none;
          call.chosen = static_cast<size_t>(chosen);
        }
        call.index_heads = index_heads, call.index_rows = index_rows;
        call.weights = pointer<float>(weights), call.sums = pointer<float>(sums);
        call.threads = threads;
        call.split = parallel_for_torch;  // it is called between torch's own operations
        nb::gil_scoped_release unlocked;
        if (plan) plan->apply(call);
        tokloom::attend(call);
      },
      nb::kw_only(), nb::arg("queries"), nb::arg("query_strides"), nb::arg("keys"), nb::arg("values"), nb::arg("out"),
      nb::arg("out_strides"), nb::arg("heads"), nb::arg("kv_heads"), nb::arg("rows"), nb::arg("head_dim"),
      nb::arg("capacity"), nb::arg("count"), nb::arg("scale"), nb::arg("storage"), nb::arg("threads"),
      nb::arg("key_scales") = 0, nb::arg("value_scales") = 0, nb::arg("positions") = 0, nb::arg("row_positions") = 0,
      nb::arg("own") = 0, nb::arg("window") = 0, nb::arg("softcap") = 0.0f, nb::arg("index") = 0,
      nb::arg("chosen") = -1,
      nb::arg("index_heads") = 1, nb::arg("index_rows") = 1, nb::arg("weights") = 0, nb::arg("sums") = 0,
      nb::arg("bases") = 0, nb::arg("holes") = 0, nb::arg("centres") = 0, nb::arg("plan") = nb::none());

  m.def(
      "quantize_groups",
      [](uintptr_t x, size_t kv_heads, size_t rows, size_t head_dim, uintptr_t to, size_t head_stride) {
        tokloom::quantize_groups(pointer<const float>(x), kv_heads, rows, head_dim, pointer<uint8_t>(to), head_stride);
      },
      nb::call_guard<nb::gil_scoped_release>(), nb::kw_only(), nb::arg("x"), nb::arg("kv_heads"), nb::arg("rows"),
      nb::arg("head_dim"), nb::arg("to"), nb::arg("head_stride"));

  m.def(
      "row_bytes",
      [](const std::string& storage, size_t head_dim) { return tokloom::row_bytes(tokloom::storage_of(storage), head_dim); },
      nb::arg("storage"), nb::arg("head_dim"));

  m.def(
      "quantize_slots",
      [](uintptr_t x, size_t kv_heads, size_t rows, size_t head_dim, uintptr_t to, size_t head_stride, uintptr_t scales,
         size_t scale_stride) {
        tokloom::quantize_slots(pointer<const float>(x), kv_heads, rows, head_dim, pointer<int8_t>(to), head_stride,
                                pointer<float>(scales), scale_stride);
      },
      nb::call_guard<nb::gil_scoped_release>(), nb::kw_only(), nb::arg("x"), nb::arg("kv_heads"), nb::arg("rows"),
      nb::arg("head_dim"), nb::arg("to"), nb::arg("head_stride"), nb::arg("scales"), nb::arg("scale_stride"));

  m.def(
      "round_slots",
      [](uintptr_t x, size_t kv_heads, size_t rows, size_t head_dim, uintptr_t to, size_t head_stride) {
        tokloom::round_slots(pointer<const float>(x), kv_heads, rows, head_dim, pointer<uint16_t>(to), head_stride);
      },
      nb::call_guard<nb::gil_scoped_release>(), nb::kw_only(), nb::arg("x"), nb::arg("kv_heads"), nb::arg("rows"),
      nb::arg("head_dim"), nb::arg("to"), nb::arg("head_stride"));
}
