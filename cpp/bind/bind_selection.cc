// The Python face of selection.h; signatures and documentation are in _core.pyi.
#include "bind/bind_selection.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <string>
#include <utility>

#include "bind/bind_attention.h"
#include "bind/bind_pointer.h"
#include "attention/selection.h"

namespace nb = nanobind;
using tokloom::pointer;
using tokloom::Reduce;
using tokloom::ScoreCall;
using tokloom::reduce_of;

namespace {

using Strides = std::pair<size_t, size_t>;

ScoreCall score_call(uintptr_t queries, Strides query_strides, size_t heads, size_t kv_heads, size_t rows, size_t width,
                     uintptr_t keys, const std::string& storage, size_t head_stride, size_t count, float scale,
                     int threads, uintptr_t key_scales, int32_t begin, uintptr_t ends, uintptr_t index, int64_t chosen,
                     size_t index_heads, size_t index_rows, uintptr_t use, const std::string& reduce, bool shared,
                     uintptr_t centres) {
  ScoreCall call{};
  call.storage = tokloom::storage_of(storage);
  if (kv_heads == 0 || heads % kv_heads) throw nb::value_error("heads is not a multiple of kv_heads");
  if (call.storage == tokloom::Storage::int8 && !key_scales) throw nb::value_error("int8 needs scales");
  if ((index_heads != 1 && index_heads != kv_heads) || (index_rows != 1 && index_rows != rows))
    throw nb::value_error("index is not (kv_heads or 1, rows or 1, chosen)");
  if (shared && index_heads != 1) throw nb::value_error("a shared result needs an index that is shared");
  call.queries = pointer<const float>(queries);
  call.query_head_stride = query_strides.first, call.query_row_stride = query_strides.second;
  call.heads = heads, call.kv_heads = kv_heads, call.rows = rows, call.width = width;
  call.keys = pointer<const void>(keys), call.key_scales = pointer<const float>(key_scales);
  call.centres = pointer<const float>(centres);
  call.head_stride = head_stride, call.count = count, call.scale = scale;
  call.begin = begin, call.ends = pointer<const int32_t>(ends);
  if (chosen >= 0) {
    static constexpr int64_t none = -1;  // an empty tensor has no address
    call.index = chosen ? pointer<const int64_t>(index) : &none;
    call.chosen = static_cast<size_t>(chosen);
  }
  call.index_heads = index_heads, call.index_rows = index_rows;
  call.use = pointer<const uint8_t>(use);
  call.reduce = reduce_of(reduce), call.shared = shared;
  call.threads = threads, call.split = tokloom::parallel_for_torch;
  return call;
}

}  // namespace

Reduce tokloom::reduce_of(const std::string& name) {
  if (name == "max") return Reduce::most;
  if (name == "sum") return Reduce::sum;
  if (name == "mass") return Reduce::mass;
  if (name == "each") return Reduce::each;
  throw nb::value_error(("reduce '" + name + "' is not one of most, sum, mass, each").c_str());
}

void tokloom::bind_selection(nb::module_& m) {
  m.def(
      "score_slots",
      [](uintptr_t queries, Strides query_strides, size_t heads, size_t kv_heads, size_t rows,
         size_t width, uintptr_t keys, const std::string& storage, size_t head_stride, size_t count, float scale,
         uintptr_t out, int threads, uintptr_t key_scales, int32_t begin, uintptr_t ends, uintptr_t index,
         int64_t chosen, size_t index_heads, size_t index_rows, uintptr_t use, const std::string& reduce, bool shared,
         uintptr_t centres) {
        ScoreCall call = score_call(queries, query_strides, heads, kv_heads, rows, width, keys, storage, head_stride,
                                    count, scale, threads, key_scales, begin, ends, index, chosen, index_heads,
                                    index_rows, use, reduce, shared, centres);
        call.out = pointer<float>(out);
        nb::gil_scoped_release unlocked;
        score_slots(call);
      },
      nb::kw_only(), nb::arg("queries"), nb::arg("query_strides"), nb::arg("heads"), nb::arg("kv_heads"),
      nb::arg("rows"), nb::arg("width"), nb::arg("keys"), nb::arg("storage"), nb::arg("head_stride"), nb::arg("count"),
      nb::arg("scale"), nb::arg("out"), nb::arg("threads"), nb::arg("key_scales") = 0, nb::arg("begin") = 0,
      nb::arg("ends") = 0, nb::arg("index") = 0, nb::arg("chosen") = -1, nb::arg("index_heads") = 1,
      nb::arg("index_rows") = 1, nb::arg("use") = 0, nb::arg("reduce") = "max", nb::arg("shared") = false,
      nb::arg("centres") = 0);

  m.def(
      "select_slots",
      [](uintptr_t queries, Strides query_strides, size_t heads, size_t kv_heads, size_t rows, size_t width,
         uintptr_t keys, const std::string& storage, size_t head_stride, size_t count, float scale, uintptr_t out,
         size_t k, int threads, uintptr_t key_scales, int32_t begin, uintptr_t ends, uintptr_t index, int64_t chosen,
         size_t index_heads, size_t index_rows, uintptr_t use, const std::string& reduce, bool shared,
         uintptr_t centres, uintptr_t counts, float mass, size_t page, int32_t slot_begin, uintptr_t slot_ends, bool first) {
        if (page == 0) throw nb::value_error("page is 0");
        if (page > 1 && (!slot_ends || chosen >= 0)) throw nb::value_error("pages need slot_ends, and no index");
        tokloom::ChooseCall call{};
        call.score = score_call(queries, query_strides, heads, kv_heads, rows, width, keys, storage, head_stride, count,
                                scale, threads, key_scales, begin, ends, index, chosen, index_heads, index_rows, use,
                                reduce, shared, centres);
        call.k = k, call.counts = pointer<const int32_t>(counts), call.mass = mass;
        call.page = page, call.begin = slot_begin, call.ends = pointer<const int32_t>(slot_ends), call.first = first;
        call.out = pointer<int64_t>(out);
        nb::gil_scoped_release unlocked;
        choose_slots(call);
      },
      nb::kw_only(), nb::arg("queries"), nb::arg("query_strides"), nb::arg("heads"), nb::arg("kv_heads"),
      nb::arg("rows"), nb::arg("width"), nb::arg("keys"), nb::arg("storage"), nb::arg("head_stride"), nb::arg("count"),
      nb::arg("scale"), nb::arg("out"), nb::arg("k"), nb::arg("threads"), nb::arg("key_scales") = 0,
      nb::arg("begin") = 0, nb::arg("ends") = 0, nb::arg("index") = 0, nb::arg("chosen") = -1,
      nb::arg("index_heads") = 1, nb::arg("index_rows") = 1, nb::arg("use") = 0, nb::arg("reduce") = "max",
      nb::arg("shared") = false, nb::arg("centres") = 0, nb::arg("counts") = 0, nb::arg("mass") = 0.0f,
      nb::arg("page") = 1,
      nb::arg("slot_begin") = 0, nb::arg("slot_ends") = 0, nb::arg("first") = false);

  m.def(
      "choose_slots",
      [](uintptr_t scores, size_t rows, size_t width, size_t k, uintptr_t out, int threads) {
        choose(pointer<const float>(scores), rows, width, k, pointer<int64_t>(out), threads, parallel_for_torch);
      },
      nb::call_guard<nb::gil_scoped_release>(), nb::kw_only(), nb::arg("scores"), nb::arg("rows"), nb::arg("width"),
      nb::arg("k"), nb::arg("out"), nb::arg("threads"));
}
