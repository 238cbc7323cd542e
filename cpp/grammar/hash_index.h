// Finds numbered things by their content: a hash table of numbers; the things themselves lie elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tokloom {

inline uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15ull;
  return hash ^ hash >> 29;
}

class HashIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  template <class Equal>
  uint32_t find(uint64_t hash, Equal&& equal) const {
    if (slots_.empty()) return kNone;
    const size_t most = slots_.size() - 1;
    for (size_t at = hash & most;; at = (at + 1) & most) {
      const Slot& slot = slots_[at];
      if (slot.number == kNone) return kNone;
      if (slot.hash == static_cast<uint32_t>(hash >> 32) && equal(slot.number)) return slot.number;
    }
  }

  void insert(uint64_t hash, uint32_t number) {
    if (2 * (count_ + 1) > slots_.size()) grow();
    place({hash, number});
    full_.push_back({hash, number});
    ++count_;
  }

  size_t bytes() const { return slots_.capacity() * sizeof(Slot) + full_.capacity() * sizeof(Entry); }

 private:
  struct Slot {
    uint32_t hash;
    uint32_t number;
  };
  struct Entry {
    uint64_t hash;
    uint32_t number;
  };

  void place(const Entry& entry) {
    const size_t most = slots_.size() - 1;
    size_t at = entry.hash & most;
    while (slots_[at].number != kNone) at = (at + 1) & most;
    slots_[at] = {static_cast<uint32_t>(entry.hash >> 32), entry.number};
  }
  void grow() {
    slots_.assign(slots_.empty() ? 64 : slots_.size() * 2, {0, kNone});
    for (const Entry& entry : full_) place(entry);
  }

  std::vector<Slot> slots_;  // a power of two of them
  std::vector<Entry> full_;
  size_t count_ = 0;
};

}  // namespace tokloom
