#include "attention/attention_view.h"

#include <algorithm>
#include <limits>

namespace tokloom {

View::View(const AttentionCall& call, std::size_t row, std::size_t rows)
    : call_(call),
      per_row_(call.index && call.index_rows > 1),
      unit_rows_(per_row_ ? 1 : rows),
      least_position_(std::numeric_limits<std::int32_t>::min()) {
  if (call.window > 0) least_position_ = *std::min_element(call.row_positions + row, call.row_positions + row + rows);
}

QueryUnit View::unit(std::size_t head, std::size_t row) const {
  QueryUnit unit{head, row, call_.index ? 0 : holes(head), past() + (call_.count - call_.past)};
  if (!call_.index)
    while (unit.begin < unit.end && !seen_by_any(unit, unit.begin, unit.begin)) ++unit.begin;
  return unit;
}

// Of a row at `position`; only if there is a window.
inline bool View::in_window(const QueryUnit& unit, std::size_t slot, std::int32_t position) const {
  return std::int64_t{call_.positions[unit.head * call_.capacity + slot]} > std::int64_t{position} - call_.window;
}

// Whether `row` sees a slot of the unit's numbering; `slot` is its place in the store.
inline bool View::sees(const QueryUnit& unit, std::size_t row, std::size_t number, std::size_t slot) const {
  if (number >= past()) {
    const std::size_t other = number - past();
    if (call_.own ? !call_.own[row * call_.rows + other] : other > row) return false;
  }
  return call_.window <= 0 || in_window(unit, slot, call_.row_positions[row]);
}

inline bool View::seen_by_any(const QueryUnit& unit, std::size_t number, std::size_t slot) const {
  if (number < past() && unit_rows_ > 1) return call_.window <= 0 || in_window(unit, slot, least_position_);
  for (std::size_t row = unit.row; row < unit.row + unit_rows_; ++row)
    if (sees(unit, row, number, slot)) return true;
  return false;
}

inline const std::int64_t* View::chosen(const QueryUnit& unit) const {
  const std::size_t head = call_.index_heads > 1 ? unit.head : 0, row = per_row_ ? unit.row : 0;
  return call_.index + (head * call_.index_rows + row) * call_.chosen;
}

// The slot of a number, -1 for an empty place of the index.
inline std::int64_t View::slot_of(const QueryUnit& unit, std::size_t number) const {
  if (!call_.index) return static_cast<std::int64_t>(number);
  if (number >= call_.chosen) return static_cast<std::int64_t>(call_.past + number - call_.chosen);
  const std::int64_t slot = chosen(unit)[number];
  const bool exists = slot >= static_cast<std::int64_t>(holes(unit.head)) && slot < static_cast<std::int64_t>(call_.past);
  return exists ? slot : -1;
}

bool View::sees_anything(const QueryUnit& unit, std::size_t row) const {
  for (std::size_t number = unit.begin; number < unit.end; ++number) {
    const std::int64_t slot = slot_of(unit, number);
    if (slot >= 0 && sees(unit, row, number, static_cast<std::size_t>(slot))) return true;
  }
  return false;
}

void View::list(const QueryUnit& unit, std::size_t begin, std::size_t end, Listed& listed, AttentionBlock& block) const {
  std::size_t n = 0, number = begin;
  if (call_.window <= 0) {  // all of the past is visible
    const std::size_t shared_end = std::min(end, past());
    if (!call_.index) {
      for (; number < shared_end; ++number) listed.numbers[n++] = static_cast<std::int32_t>(number);
    } else {
      const std::int64_t* index = chosen(unit);
      const auto least = static_cast<std::int64_t>(holes(unit.head)), most = static_cast<std::int64_t>(call_.past);
      for (; number < shared_end; ++number) {
        listed.numbers[n] = static_cast<std::int32_t>(index[number]);  // overwritten if it does not count
        n += index[number] >= least && index[number] < most;
      }
    }
  }
  std::int32_t* mask = nullptr;
  if (unit_rows_ > 1 && number < end) {
    mask = reinterpret_cast<std::int32_t*>(listed.masks.floats(unit_rows_ * block.stride));
    for (std::size_t r = 0; r < unit_rows_; ++r) std::fill_n(mask + r * block.stride, n, -1);
  }
  block.mask = mask;
  for (; number < end; ++number) {
    const std::int64_t place = slot_of(unit, number);
    if (place < 0) continue;
    const std::size_t slot = static_cast<std::size_t>(place);
    if (!seen_by_any(unit, number, slot)) continue;
    listed.numbers[n] = static_cast<std::int32_t>(slot);
    for (std::size_t r = 0; mask && r < unit_rows_; ++r)
      mask[r * block.stride + n] = sees(unit, unit.row + r, number, slot) ? -1 : 0;
    ++n;
  }
  block.offsets = listed.offsets;
  block.numbers = listed.numbers;
  block.key_scales = listed.key_scales;
  block.value_scales = listed.value_scales;
  block.slots = n;
  if (!n) return;
  const std::size_t padded = (n + kWidest - 1) / kWidest * kWidest;
  std::fill(listed.numbers + n, listed.numbers + padded, listed.numbers[n - 1]);
  const std::int64_t first =
      call_.bases ? call_.bases[unit.head] : static_cast<std::int64_t>(unit.head * call_.capacity);
  for (std::size_t s = 0; s < padded; ++s)
    listed.offsets[s] = static_cast<std::size_t>(first + listed.numbers[s]) * block.row_bytes;
  if (call_.storage != Storage::int8) return;
  for (std::size_t s = 0; s < padded; ++s) {
    listed.key_scales[s] = call_.key_scales[first + listed.numbers[s]];
    listed.value_scales[s] = call_.value_scales[first + listed.numbers[s]];
  }
}

}  // namespace tokloom
