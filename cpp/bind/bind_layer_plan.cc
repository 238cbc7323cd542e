// The Python face of layer_plan.h; signatures and documentation are in _core.pyi.
#include "bind/bind_layer_plan.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>

#include "bind/bind_attention.h"
#include "bind/bind_pointer.h"
#include "bind/bind_selection.h"
#include "attention/layer_plan.h"

namespace nb = nanobind;
using tokloom::pointer;
using tokloom::ClusterList;
using tokloom::Density;
using tokloom::Earlier;
using tokloom::Index;
using tokloom::LayerPlan;
using tokloom::TokenPages;

namespace {

Index::Map map_of(const std::string& name) {
  if (name == "own") return Index::Map::own;
  if (name == "signs") return Index::Map::signs;
  if (name == "elements") return Index::Map::elements;
  if (name == "product") return Index::Map::product;
  throw nb::value_error(("map '" + name + "' is not one of own, signs, elements, product").c_str());
}

}  // namespace

void tokloom::bind_layer_plan(nb::module_& m) {
  nb::class_<Index>(m, "Index").def(
      "__init__",
      [](Index* self, float scale, uintptr_t keys, uintptr_t key_scales, const std::string& storage, size_t head_stride,
         size_t width, size_t page, const std::string& map, uintptr_t table, const std::string& reduce, bool shared, bool first, uintptr_t use,
         const std::pair<size_t, size_t>& token_pages, const std::pair<uintptr_t, size_t>& page_of,
         const std::pair<uintptr_t, size_t>& consecutive) {
        const auto [size, batch] = token_pages;
        if (size && (batch == 0 || batch % size)) throw nb::value_error("a batch is not whole pages");
        if (page == 0) throw nb::value_error("page is 0");
        if (page > 1 && !keys) throw nb::value_error("pages need keys of their own");
        if (keys && storage_of(storage) == Storage::int8 && !key_scales) throw nb::value_error("int8 needs scales");
        const Index::Map kind = map_of(map);
        if ((kind == Index::Map::elements || kind == Index::Map::product) && !table) throw nb::value_error("map needs a table");
        new (self) Index{pointer<const void>(keys), pointer<const float>(key_scales), storage_of(storage), head_stride,
                         width, page, scale, kind, pointer<const void>(table), reduce_of(reduce), shared, first,
                         pointer<const uint8_t>(use),
                         TokenPages{size, batch, pointer<const int64_t>(page_of.first), page_of.second,
                                    pointer<const void>(consecutive.first), consecutive.second}};
      },
      nb::kw_only(), nb::arg("scale"), nb::arg("keys") = 0, nb::arg("key_scales") = 0, nb::arg("storage") = "fp32",
      nb::arg("head_stride") = 0, nb::arg("width") = 0, nb::arg("page") = 1, nb::arg("map") = "own", nb::arg("table") = 0,
      nb::arg("reduce") = "mass", nb::arg("shared") = false, nb::arg("first") = false, nb::arg("use") = 0,
      nb::arg("token_pages") = std::pair<size_t, size_t>(), nb::arg("page_of") = std::pair<uintptr_t, size_t>(),
      nb::arg("consecutive") = std::pair<uintptr_t, size_t>())
      .def_ro("page", &Index::page)
      .def_prop_ro("shares", [](const Index& self) { return self.reduce == tokloom::Reduce::mass; });

  nb::class_<LayerPlan>(m, "LayerPlan")
      .def(nb::init<size_t, size_t>(), nb::arg("sink") = 0, nb::arg("local") = 1)
      .def("hold", [](LayerPlan&, nb::handle) {}, nb::arg("tensor"), nb::keep_alive<1, 2>())
      .def("route", &LayerPlan::route, nb::arg("means"), nb::arg("active"))
      .def("narrow", &LayerPlan::narrow, nb::arg("index"), nb::arg("budget"), nb::arg("ratio") = 0.0f)
      .def("choose", &LayerPlan::choose, nb::arg("index"), nb::arg("budget"), nb::arg("mass") = 0.0f)
      .def(
          "choose_by_density",
          [](LayerPlan& self, const Index& index, float later, float most, uintptr_t left) {
            self.choose_by_density(index, Density{later, most, pointer<float>(left)});
          },
          nb::arg("index"), nb::arg("later"), nb::arg("maximum"), nb::arg("left"))
      .def(
          "choose_clusters",
          [](LayerPlan& self, const Index& centroids, uintptr_t label, uintptr_t sizes, size_t count, size_t clusters,
             float threshold) {
            self.choose_clusters(centroids, ClusterList{pointer<const int64_t>(label), pointer<const float>(sizes), count,
                                                        clusters, threshold});
          },
          nb::arg("centroids"), nb::arg("label"), nb::arg("sizes"), nb::arg("count"), nb::arg("clusters"),
          nb::arg("threshold"))
      .def(
          "keep_while_similar",
          [](LayerPlan& self, float similarity, uintptr_t query, uintptr_t choice, size_t heads, size_t chosen,
             uintptr_t parents) {
            self.keep_while_similar(Earlier{similarity, pointer<const float>(query), pointer<const int64_t>(choice), heads,
                                            chosen, pointer<const int32_t>(parents)});
          },
          nb::arg("similarity"), nb::arg("query") = 0, nb::arg("choice") = 0, nb::arg("heads") = 1,
          nb::arg("chosen") = 0, nb::arg("parents") = 0)
      .def("reuse", &LayerPlan::reuse, nb::arg("other"), nb::keep_alive<1, 2>())
      .def("attend_densely", &LayerPlan::attend_densely)
      .def_prop_ro("dense", &LayerPlan::dense)
      .def_prop_ro("listed", &LayerPlan::listed)
      .def_prop_ro("shape",
                   [](const LayerPlan& self) {
                     const size_t heads = self.index_heads(), width = self.width(), size = self.slots().size();
                     return std::tuple(heads, size ? size / heads / width : 0, width, self.always());
                   })
      .def_prop_ro("query_floats", [](const LayerPlan& self) { return self.queries().size(); })
      .def(
          "copy_queries",
          [](const LayerPlan& self, uintptr_t out) {
            std::copy(self.queries().begin(), self.queries().end(), pointer<float>(out));
          },
          nb::arg("out"))
      .def(
          "copy_slots",
          [](const LayerPlan& self, uintptr_t out) {
            std::copy(self.slots().begin(), self.slots().end(), pointer<int64_t>(out));
          },
          nb::arg("out"));
}
