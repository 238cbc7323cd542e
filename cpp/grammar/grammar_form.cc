#include "grammar/grammar_form.h"

#include "grammar/grammar_problem.h"

namespace tokloom {

namespace {

void put(uint32_t value, std::string& out) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void put(const std::string& text, std::string& out) {
  put(static_cast<uint32_t>(text.size()), out);
  out += text;
}

void put(const std::vector<uint32_t>& numbers, std::string& out) {
  put(static_cast<uint32_t>(numbers.size()), out);
  for (const uint32_t number : numbers) put(number, out);
}

class Decoder {
 public:
  explicit Decoder(std::string_view bytes) : left_(bytes) {}

  uint32_t number() {
    uint64_t value = 0;
    for (int shift = 0; shift < 35; shift += 7) {
      need(1);
      const auto byte = static_cast<uint8_t>(left_[0]);
      left_.remove_prefix(1);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) {
        check(value <= UINT32_MAX);
        return static_cast<uint32_t>(value);
      }
    }
    check(false);
    return 0;
  }
  std::string text() {
    const uint32_t size = number();
    need(size);
    std::string read(left_.substr(0, size));
    left_.remove_prefix(size);
    return read;
  }
  std::vector<uint32_t> numbers() {
    const uint32_t size = number();
    need(size);  // each takes at least a byte
    std::vector<uint32_t> read(size);
    for (uint32_t& value : read) value = number();
    return read;
  }
  void need(size_t bytes) const { check(left_.size() >= bytes); }
  bool done() const { return left_.empty(); }
  static void check(bool good) {
    if (!good) throw GrammarProblem("saved grammar", "the data is damaged", "Compile and save it again.");
  }

 private:
  std::string_view left_;
};

void check_automaton(const std::vector<uint32_t>& numbers) {
  size_t at = 0;
  const auto next = [&] {
    Decoder::check(at < numbers.size());
    return numbers[at++];
  };
  const uint32_t states = next();
  Decoder::check(states > 0);
  for (uint32_t s = 0; s < states; ++s) {
    const uint32_t edges = next();
    Decoder::check(next() <= 1);
    uint32_t from = 0;
    for (uint32_t e = 0; e < edges; ++e) {
      const uint32_t first = next();
      const uint32_t last = next();
      Decoder::check(first >= from && first <= last && last < 256 && next() < states);
      from = last + 1;
    }
  }
  Decoder::check(at == numbers.size());
}

void check_node(const Form::Node& node, size_t number, size_t rules) {
  using Kind = Form::Kind;
  for (const uint32_t child : node.children) Decoder::check(child < number);
  const size_t children = node.children.size();
  switch (node.kind) {
    case Kind::bytes:
    case Kind::chars:
      Decoder::check(node.numbers.size() % 2 == 0);
      for (size_t i = 0; i < node.numbers.size(); i += 2) {
        const uint32_t limit = node.kind == Kind::bytes ? 0xFF : 0x10FFFF;
        Decoder::check(node.numbers[i] <= node.numbers[i + 1] && node.numbers[i + 1] <= limit);
        Decoder::check(i == 0 || node.numbers[i] > node.numbers[i - 1]);
      }
      break;
    case Kind::repeat:
      Decoder::check(children == 1 && node.least <= node.most);
      break;
    case Kind::ref:
      Decoder::check(node.least < rules);
      break;
    case Kind::except:
      Decoder::check(children == 2);
      break;
    case Kind::both:
      Decoder::check(children > 0);
      break;
    case Kind::automaton:
      check_automaton(node.numbers);
      break;
    case Kind::any_order:
      Decoder::check(children > 0 && node.numbers.size() == 2 * (children - 1) && node.least <= node.most);
      break;
    case Kind::literal:
    case Kind::concat:
    case Kind::either:
    case Kind::special:
      break;
  }
}

}  // namespace

void encode(const Form::Node& node, std::string& out) {
  out.push_back(static_cast<char>(node.kind));
  put(node.least, out);
  put(node.most, out);
  put(node.children, out);
  put(node.numbers, out);
  put(node.data, out);
}

std::string Form::encode() const {
  std::string out;
  put(static_cast<uint32_t>(nodes.size()), out);
  put(static_cast<uint32_t>(rules.size()), out);
  for (const Node& node : nodes) tokloom::encode(node, out);
  for (const Rule& rule : rules) {
    put(rule.name, out);
    put(rule.body, out);
  }
  put(start, out);
  return out;
}

Form Form::decode(std::string_view bytes) {
  Decoder in(bytes);
  Form form;
  const uint32_t nodes = in.number();
  const uint32_t rules = in.number();
  in.need(nodes);
  in.need(rules);
  for (uint32_t i = 0; i < nodes; ++i) {
    Node node;
    const uint32_t kind = in.number();
    Decoder::check(kind <= static_cast<uint32_t>(Kind::special));
    node.kind = static_cast<Kind>(kind);
    node.least = in.number();
    node.most = in.number();
    node.children = in.numbers();
    node.numbers = in.numbers();
    node.data = in.text();
    check_node(node, i, rules);
    form.nodes.push_back(std::move(node));
  }
  for (uint32_t i = 0; i < rules; ++i) {
    Rule rule{in.text(), 0};
    rule.body = in.number();
    Decoder::check(rule.body < nodes);
    form.rules.push_back(std::move(rule));
  }
  form.start = in.number();
  Decoder::check(form.start < nodes && in.done());
  return form;
}

}  // namespace tokloom
