// Which slots the rows of an attention call see, and the list of them that a block of the kernel works through.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/attention.h"
#include "attention/attention_block.h"
#include "base/buffer.h"

namespace tokloom {

// Queries that share keys: those of a KV head's group, of all rows or (with an index per row) of one. Its slots are
// numbered: without an index as they are stored, else the chosen ones, then the own ones.
struct QueryUnit {
  std::size_t head, row;
  std::size_t begin, end;  // slots that a row may see lie in here
};

// The slots of a block, as an AttentionBlock points to them.
struct Listed {
  std::size_t offsets[kMostSlots];
  std::int32_t numbers[kMostSlots + 1];  // one more for what the index has and is skipped
  float key_scales[kMostSlots], value_scales[kMostSlots];
  Buffer masks;
};

// The rows [row, row + rows) of a call.
class View {
 public:
  View(const AttentionCall& call, std::size_t row, std::size_t rows);

  std::size_t unit_rows() const { return unit_rows_; }

  // The units of a KV head begin at every `unit_rows`th row.
  QueryUnit unit(std::size_t head, std::size_t row) const;

  bool sees_anything(const QueryUnit& unit, std::size_t row) const;

  // Lists the slots among numbers [begin, end) that some row sees, and which row sees which if not every row sees all.
  void list(const QueryUnit& unit, std::size_t begin, std::size_t end, Listed& listed, AttentionBlock& block) const;

 private:
  std::size_t holes(std::size_t head) const { return call_.holes ? static_cast<std::size_t>(call_.holes[head]) : 0; }
  std::size_t past() const { return call_.index ? call_.chosen : call_.past; }
  bool in_window(const QueryUnit& unit, std::size_t slot, std::int32_t position) const;
  bool sees(const QueryUnit& unit, std::size_t row, std::size_t number, std::size_t slot) const;
  bool seen_by_any(const QueryUnit& unit, std::size_t number, std::size_t slot) const;
  const std::int64_t* chosen(const QueryUnit& unit) const;
  std::int64_t slot_of(const QueryUnit& unit, std::size_t number) const;

  const AttentionCall& call_;
  bool per_row_;
  std::size_t unit_rows_;
  std::int32_t least_position_;  // of the rows; read only if there is a window
};

}  // namespace tokloom
