// The vocabulary as a trie of bytes, and sets of choices that are matched against it.
//
// Layout: one flat array of nodes in preorder, each with the size of its subtree. For node n
//     first child   n + 1                      (if skip > 1)
//     next sibling  n + skip(n)                (if it lies inside the parent's subtree)
//     keys at n     order[first(n) .. first(n + 1))
//     keys below n  order[first(n) .. first(n + skip(n)))
// Siblings are sorted by their byte. A walk reads the array forward and passes over a subtree in one
// step; "all tokens below here" is a slice. Keys sorted by bytes come out in preorder by themselves.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tokloom {

class ByteTrie {
 public:
  struct Node {
    uint32_t skip;   // nodes in this subtree, itself included
    uint32_t first;  // index into `order` of the first key at or below this node
    uint8_t byte;    // label of the edge from the parent; 0 for the root
  };

  // Keys are numbered as given. An empty key has a number but no place in the trie; equal keys share
  // a node. Throws std::length_error if there are more than 2^31 - 1 keys or bytes.
  explicit ByteTrie(std::vector<std::string> keys);

  size_t size() const { return keys_.size(); }
  uint32_t nodes() const { return static_cast<uint32_t>(nodes_.size() - 1); }
  const Node& node(uint32_t n) const { return nodes_[n]; }
  uint32_t end(uint32_t n) const { return n + nodes_[n].skip; }
  std::string_view key(size_t id) const { return keys_[id]; }

  // Keys that end at node n: [keys_begin(n), keys_end(n)), by increasing number.
  const uint32_t* keys_begin(uint32_t n) const { return order_.data() + nodes_[n].first; }
  const uint32_t* keys_end(uint32_t n) const { return order_.data() + nodes_[n + 1].first; }
  // The end of the slice of all keys at or below node n, sorted by bytes, then number.
  const uint32_t* subtree_end(uint32_t n) const { return order_.data() + nodes_[end(n)].first; }

  // Where these slices begin and end among all keys in the trie, sorted so.
  uint32_t first_place(uint32_t n) const { return nodes_[n].first; }
  uint32_t subtree_last_place(uint32_t n) const { return nodes_[end(n)].first; }
  const std::vector<uint32_t>& sorted_keys() const { return order_; }

  // The node that `text` leads to from node n; `kNone` if there is none.
  static constexpr uint32_t kNone = UINT32_MAX;
  uint32_t child(uint32_t n, uint8_t byte) const;
  uint32_t find(uint32_t n, std::string_view text) const;

 private:
  std::vector<std::string> keys_;
  std::vector<uint32_t> order_;
  std::vector<Node> nodes_;  // one more than there are nodes: its `first` ends the last slice
  uint32_t root_child_[256];  // the root has up to 256 children: scanning them would cost every walk
};

// Strings of which the output must be one, in any tokenization that spells it.
//
// A state is a node of the choices' trie: the bytes of the output so far. States from which the
// vocabulary can't finish any choice are dead, and no mask leads into them.
class ChoiceSet {
 public:
  // Keeps a reference to `vocabulary`. Choices must not be empty strings.
  ChoiceSet(const ByteTrie& vocabulary, std::vector<std::string> choices);

  uint32_t states() const { return choices_.nodes(); }
  size_t words() const { return (vocabulary_.size() + 31) / 32; }  // of a bitmask
  // Choices that no sequence of tokens spells, by number.
  const std::vector<uint32_t>& unspellable() const { return unspellable_; }

  // Sets the bits of the tokens that may come next in out[0 .. words()), clears the others.
  void mask(uint32_t state, int32_t* out) const;
  // The state after `token`, -1 if it may not come next.
  int64_t step(uint32_t state, int64_t token) const;
  bool complete(uint32_t state) const { return choices_.keys_begin(state) != choices_.keys_end(state); }
  // Complete, and no token may follow.
  bool final(uint32_t state) const;
  // Tokens that must follow, up to the next choice or complete output.
  std::vector<uint32_t> forced(uint32_t state) const;

 private:
  template <class Visit>
  bool walk(uint32_t state, Visit&& visit) const;

  const ByteTrie& vocabulary_;
  ByteTrie choices_;
  std::vector<uint8_t> alive_;  // by state: some sequence of tokens leads to a complete output
  std::vector<uint32_t> unspellable_;
};

}  // namespace tokloom
