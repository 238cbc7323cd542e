#include "grammar/automaton.h"

#include <algorithm>
#include <array>
#include <map>

namespace tokloom {

namespace {

struct ByteRange {
  uint8_t first;
  uint8_t last;
  bool operator==(const ByteRange& other) const { return first == other.first && last == other.last; }
};

using Sequence = std::vector<ByteRange>;  // the bytes of a block of characters, each in its range

uint32_t continuation_bytes(uint32_t code) { return code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3; }

std::array<uint8_t, 4> utf8(uint32_t code, uint32_t more) {
  static constexpr uint8_t kLead[] = {0x00, 0xC0, 0xE0, 0xF0};
  std::array<uint8_t, 4> bytes{};
  for (uint32_t i = more; i > 0; --i, code >>= 6) bytes[i] = static_cast<uint8_t>(0x80 | (code & 0x3F));
  bytes[0] = static_cast<uint8_t>(kLead[more] | code);
  return bytes;
}

// Appends [first, last] as sequences: split until in each the bytes vary independently.
void split(uint32_t first, uint32_t last, std::vector<Sequence>& out) {
  static constexpr uint32_t kLast[] = {0x7F, 0x7FF, 0xFFFF};
  for (const uint32_t most : kLast) {
    if (first <= most && last > most) {
      split(first, most, out);
      split(most + 1, last, out);
      return;
    }
  }
  const uint32_t more = continuation_bytes(first);
  for (uint32_t i = 1; i <= more; ++i) {
    const uint32_t low = (uint32_t{1} << (6 * i)) - 1;
    if ((first & ~low) == (last & ~low)) continue;
    if ((first & low) != 0) {
      split(first, first | low, out);
      split((first | low) + 1, last, out);
      return;
    }
    if ((last & low) != low) {
      split(first, (last & ~low) - 1, out);
      split(last & ~low, last, out);
      return;
    }
  }
  const auto from = utf8(first, more);
  const auto to = utf8(last, more);
  Sequence sequence;
  for (uint32_t i = 0; i <= more; ++i) sequence.push_back({from[i], to[i]});
  out.push_back(std::move(sequence));
}

class CharacterBuilder {
 public:
  // The state from which what the sequences in [begin, end) have from byte `depth` on is left.
  uint32_t build(const std::vector<Sequence>& all, size_t begin, size_t end, size_t depth) {
    if (all[begin].size() == depth) return end_state();
    std::vector<Automaton::Edge> edges;
    for (size_t i = begin; i < end;) {
      size_t j = i + 1;
      while (j < end && all[j][depth] == all[i][depth]) ++j;
      const uint32_t next = build(all, i, j, depth + 1);
      const ByteRange range = all[i][depth];
      if (!edges.empty() && edges.back().next == next && edges.back().last + 1 == range.first) {
        edges.back().last = range.last;
      } else {
        edges.push_back({range.first, range.last, next});
      }
      i = j;
    }
    if (depth == 0) {
      made.states[0].edges = std::move(edges);
      return 0;
    }
    std::string key;
    for (const auto& edge : edges) {
      key += {static_cast<char>(edge.first), static_cast<char>(edge.last), static_cast<char>(edge.next),
              static_cast<char>(edge.next >> 8)};
    }
    const auto [place, fresh] = known_.emplace(std::move(key), static_cast<uint32_t>(made.states.size()));
    if (fresh) {
      made.states.emplace_back();
      made.states.back().edges = std::move(edges);
    }
    return place->second;
  }

  Automaton made{std::vector<Automaton::State>(1)};

 private:
  uint32_t end_state() {
    if (end_ == 0) {
      end_ = static_cast<uint32_t>(made.states.size());
      made.states.emplace_back();
      made.states.back().accepting = true;
    }
    return end_;
  }

  std::map<std::string, uint32_t> known_;
  uint32_t end_ = 0;
};

}  // namespace

void Automaton::trim(const ByteSet& alphabet) {
  for (State& state : states) {
    std::vector<Edge> kept;
    for (const Edge& edge : state.edges) {
      for (unsigned byte = edge.first; byte <= edge.last; ++byte) {
        if (!alphabet.test(byte)) continue;
        const auto value = static_cast<uint8_t>(byte);
        if (!kept.empty() && kept.back().next == edge.next && kept.back().last + 1 == value) {
          kept.back().last = value;
        } else {
          kept.push_back({value, value, edge.next});
        }
      }
    }
    state.edges = std::move(kept);
  }
  std::vector<std::vector<uint32_t>> before(states.size());
  for (uint32_t s = 0; s < states.size(); ++s) {
    for (const Edge& edge : states[s].edges) before[edge.next].push_back(s);
  }
  std::vector<uint8_t> alive(states.size(), 0);
  std::vector<uint32_t> open;
  for (uint32_t s = 0; s < states.size(); ++s) {
    if (states[s].accepting) {
      alive[s] = 1;
      open.push_back(s);
    }
  }
  while (!open.empty()) {
    const uint32_t s = open.back();
    open.pop_back();
    for (const uint32_t from : before[s]) {
      if (alive[from] == 0) {
        alive[from] = 1;
        open.push_back(from);
      }
    }
  }
  for (State& state : states) {
    auto& edges = state.edges;
    edges.erase(std::remove_if(edges.begin(), edges.end(), [&](const Edge& edge) { return alive[edge.next] == 0; }),
                edges.end());
  }
}

std::string Automaton::text() const {
  std::string key;
  const auto put = [&key](uint32_t value) {
    for (int shift = 0; shift < 32; shift += 8) key.push_back(static_cast<char>(value >> shift));
  };
  for (const State& state : states) {
    put(static_cast<uint32_t>(state.edges.size()) << 1 | (state.accepting ? 1 : 0));
    for (const Edge& edge : state.edges) {
      key.push_back(static_cast<char>(edge.first));
      key.push_back(static_cast<char>(edge.last));
      put(edge.next);
    }
  }
  return key;
}

Automaton character_automaton(const std::vector<std::pair<uint32_t, uint32_t>>& ranges) {
  std::vector<Sequence> sequences;
  for (const auto& [first, last] : ranges) {
    // Surrogates have no UTF-8.
    if (first < 0xD800) split(first, std::min<uint32_t>(last, 0xD7FF), sequences);
    if (last > 0xDFFF) split(std::max<uint32_t>(first, 0xE000), last, sequences);
  }
  CharacterBuilder builder;
  if (!sequences.empty()) builder.build(sequences, 0, sequences.size(), 0);
  return std::move(builder.made);
}

Automaton string_automaton(std::vector<std::string> strings) {
  std::sort(strings.begin(), strings.end());
  Automaton made;
  made.states.emplace_back();
  std::vector<uint32_t> path{0};  // the states of the last string
  std::string last;
  for (const std::string& text : strings) {
    size_t shared = 0;
    while (shared < last.size() && shared < text.size() && last[shared] == text[shared]) ++shared;
    path.resize(shared + 1);
    for (size_t i = shared; i < text.size(); ++i) {
      const auto byte = static_cast<uint8_t>(text[i]);
      const auto next = static_cast<uint32_t>(made.states.size());
      made.states.emplace_back();
      made.states[path.back()].edges.push_back({byte, byte, next});
      path.push_back(next);
    }
    made.states[path.back()].accepting = true;
    last = text;
  }
  return made;
}

}  // namespace tokloom
