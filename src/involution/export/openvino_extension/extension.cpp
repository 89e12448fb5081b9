// Involution's own operators in OpenVINO, over the library's kernels: compiled on the machine where it runs, against the
// headers of the OpenVINO that is installed there (involution.export.openvino.extension).
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>
#include <openvino/op/op.hpp>

#include <string>
#include <vector>

#include "involution_engine.h"

#if defined(INVOLUTION_TBB)
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

namespace pool {
// Those of the stream of OpenVINO that the calling thread serves.
std::int64_t threads() { return tbb::this_task_arena::max_concurrency(); }

void run(void*, std::int64_t count, void (*body)(void* task, std::int64_t i), void* task) {
  tbb::parallel_for(std::int64_t(0), count, [=](std::int64_t i) { body(task, i); });
}
}  // namespace pool
#else
// An OpenVINO without TBB: calls run on the thread that makes them, beside no pool of OpenVINO's.
namespace pool {
std::int64_t threads() { return 1; }
constexpr decltype(InvolutionParallel::run) run = nullptr;
}  // namespace pool
#endif

extern "C" {
int involution_interface();
InvolutionPrepare involution_prepare;
InvolutionCompute involution_compute;
}

namespace {

using Integers = std::vector<std::int64_t>;

constexpr std::int64_t kSentence = 1024;

InvolutionNumbers numbers_of(const Integers& list) {
  InvolutionNumbers numbers{std::int64_t(list.size()), {}};
  for (std::size_t i = 0; i < list.size() && i < 3; i++) numbers.at[i] = list[i];
  return numbers;
}

int dtype_of(const ov::element::Type& type) {
  return type == ov::element::f32    ? kFloat32
         : type == ov::element::f64  ? kFloat64
         : type == ov::element::bf16 ? kBFloat16
         : type == ov::element::f16  ? kFloat16
                                     : -1;
}

// Any of the operators; what differs among them is which it is.
class Node : public ov::op::Op {
 public:
  Integers kernel_size, stride, padding, dilation;
  std::int64_t groups = 1, relu = 0;
  // Where each input stands among those of InvolutionCall: optional ones may be missing.
  Integers places;

  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("kernel_size", kernel_size);
    visitor.on_attribute("stride", stride);
    visitor.on_attribute("padding", padding);
    visitor.on_attribute("dilation", dilation);
    visitor.on_attribute("groups", groups);
    visitor.on_attribute("relu", relu);
    visitor.on_attribute("places", places);
    return true;
  }

  void validate_and_infer_types() override {
    NODE_VALIDATION_CHECK(this, places.size() == get_input_size(), "involution: the file is damaged; write it again");
    for (const std::int64_t place : places) {
      NODE_VALIDATION_CHECK(this, place >= 0 && place < kInvolutionInputs, "involution: the file is damaged; write it again");
    }
    const ov::element::Type type = get_input_element_type(0);
    bool known = true;
    for (std::size_t i = 0; i < get_input_size(); i++) {
      NODE_VALIDATION_CHECK(this, get_input_element_type(i) == type, "involution: all inputs must have one type, got ", type,
                            " and ", get_input_element_type(i), "; export the net in one floating type");
      known = known && get_input_partial_shape(i).is_static();
    }
    if (!known) return set_output_type(0, type, unknown_shape());
    std::vector<ov::Shape> shapes;
    for (std::size_t i = 0; i < get_input_size(); i++) shapes.push_back(get_input_shape(i));
    Call call(*this, type, shapes);
    set_output_type(0, type, call.prepared());
  }

  bool has_evaluate() const override { return dtype_of(get_input_element_type(0)) >= 0; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    std::vector<ov::Shape> shapes;
    for (const ov::Tensor& input : inputs) shapes.push_back(input.get_shape());
    Call call(*this, inputs.at(0).get_element_type(), shapes);
    for (std::size_t i = 0; i < inputs.size(); i++) call.of(i).data = inputs[i].data();
    outputs.at(0).set_shape(call.prepared());
    call.compute(outputs[0].data());
    return true;
  }

 protected:
  using Op::Op;

  virtual InvolutionEngineOperator which() const = 0;

  // The shape of the output while sizes of inputs are open.
  virtual ov::PartialShape unknown_shape() const = 0;

  // (B, C) of one input and the pixels of another, from their dimension `from` on.
  ov::PartialShape joined(std::size_t map, std::size_t grid, std::int64_t from) const {
    const ov::PartialShape a = get_input_partial_shape(map), b = get_input_partial_shape(grid);
    ov::PartialShape shape = ov::PartialShape::dynamic(std::int64_t(stride.size()) + 2);
    const bool ranked = a.rank().is_static() && a.size() == shape.size();
    for (std::size_t d = 0; d < 2 && ranked; d++) shape[d] = a[d];
    const bool gridded = b.rank().is_static() && b.size() == std::size_t(from) + stride.size();
    for (std::size_t d = 0; d < stride.size() && gridded; d++) shape[2 + d] = b[std::size_t(from) + d];
    return shape;
  }

  // The same operator over other inputs.
  template <class T>
  std::shared_ptr<ov::Node> cloned(const ov::OutputVector& inputs) const {
    check_new_args_count(this, inputs);
    auto node = std::make_shared<T>();
    node->set_arguments(inputs);
    node->kernel_size = kernel_size;
    node->stride = stride;
    node->padding = padding;
    node->dilation = dilation;
    node->groups = groups;
    node->relu = relu;
    node->places = places;
    node->constructor_validate_and_infer_types();
    return node;
  }

 private:
  // A call of the library, which says what does not fit.
  class Call {
   public:
    Call(const Node& node, const ov::element::Type& type, const std::vector<ov::Shape>& shapes) : node_(node) {
      call_.op = node.which();
      call_.dtype = dtype_of(type);
      call_.groups = node.groups;
      call_.relu = node.relu;
      call_.kernel_size = numbers_of(node.kernel_size);
      call_.stride = numbers_of(node.stride);
      call_.padding = numbers_of(node.padding);
      call_.dilation = numbers_of(node.dilation);
      for (const ov::Shape& shape : shapes) sizes_.emplace_back(shape.begin(), shape.end());
      for (std::size_t i = 0; i < sizes_.size(); i++) of(i) = {nullptr, std::int64_t(sizes_[i].size()), start(sizes_[i])};
    }
    Call(const Call&) = delete;

    InvolutionArray& of(std::size_t input) { return call_.inputs[node_.places.at(input)]; }

    ov::Shape prepared() {
      must(involution_prepare(&call_, sentence_, kSentence));
      return ov::Shape(call_.output_size, call_.output_size + call_.output_dims);
    }

    void compute(void* output) {
      call_.output = output;
      const InvolutionParallel parallel{pool::threads(), pool::run, nullptr};
      must(involution_compute(&call_, &parallel, sentence_, kSentence));
    }

   private:
    // What has no sizes is one number, and still there.
    static const std::int64_t* start(const Integers& sizes) {
      static const std::int64_t none = 0;
      return sizes.empty() ? &none : sizes.data();
    }

    void must(int failed) const {
      if (failed) OPENVINO_THROW(sentence_);
    }

    const Node& node_;
    InvolutionCall call_{};
    std::vector<Integers> sizes_;
    char sentence_[kSentence];
  };
};

class Involution : public Node {
 public:
  OPENVINO_OP("Involution", "involution", Node);
  Involution() = default;
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return cloned<Involution>(inputs);
  }

 protected:
  InvolutionEngineOperator which() const override { return kInvolution; }
  ov::PartialShape unknown_shape() const override { return joined(0, 1, 2); }
};

class InvolutionOfField : public Node {
 public:
  OPENVINO_OP("InvolutionOfField", "involution", Node);
  InvolutionOfField() = default;
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return cloned<InvolutionOfField>(inputs);
  }

 protected:
  InvolutionEngineOperator which() const override { return kInvolutionOfField; }
  ov::PartialShape unknown_shape() const override { return joined(0, 1, 2 + std::int64_t(stride.size())); }
};

class Correlation : public Node {
 public:
  OPENVINO_OP("Correlation", "involution", Node);
  Correlation() = default;
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return cloned<Correlation>(inputs);
  }

 protected:
  InvolutionEngineOperator which() const override { return kCorrelation; }
  ov::PartialShape unknown_shape() const override {
    const ov::PartialShape map = joined(1, 0, 2);
    ov::PartialShape shape{map[0], groups};
    for (const std::int64_t taps : kernel_size) shape.push_back(taps);
    for (std::size_t d = 2; d < map.size(); d++) shape.push_back(map[d]);
    return shape;
  }
};

template <class T>
T attribute_of(const ov::frontend::NodeContext& context, const char* name, const T* otherwise = nullptr) {
  try {
    return otherwise ? context.get_attribute<T>(name, *otherwise) : context.get_attribute<T>(name);
  } catch (const std::exception&) {
    OPENVINO_THROW("involution::", context.get_op_type(), ": the attribute ", name,
                   " is missing or has another type; write the file again with involution.export.to_onnx");
  }
}

// The operator that a node of an ONNX file is.
template <class T>
ov::OutputVector converted(const ov::frontend::NodeContext& context) {
  constexpr bool of_field = std::is_same_v<T, InvolutionOfField>;
  auto node = std::make_shared<T>();
  ov::OutputVector inputs;
  for (std::size_t i = 0; i < context.get_input_size(); i++) {
    const ov::Output<ov::Node> input = context.get_input(int(i));
    // What is optional and missing stands there as a node without a type.
    if (std::string(input.get_node()->get_type_name()) == "NullNode") continue;
    node->places.push_back(std::int64_t(i));
    inputs.push_back(input);
  }
  node->stride = attribute_of<Integers>(context, "stride");
  node->padding = attribute_of<Integers>(context, "padding");
  node->dilation = attribute_of<Integers>(context, "dilation");
  if (!of_field) {
    node->kernel_size = attribute_of<Integers>(context, "kernel_size");
    node->groups = attribute_of<std::int64_t>(context, "groups");
  }
  const std::int64_t no = 0;
  if (std::is_same_v<T, Involution>) node->relu = attribute_of<std::int64_t>(context, "relu", &no);
  node->set_arguments(inputs);
  node->constructor_validate_and_infer_types();
  return node->outputs();
}

template <class T>
void add(std::vector<ov::Extension::Ptr>& extensions, const char* name) {
  // For files of ONNX, and for those in OpenVINO's own format.
  extensions.push_back(std::make_shared<ov::frontend::onnx::ConversionExtension>(name, "involution", converted<T>));
  extensions.push_back(std::make_shared<ov::OpExtension<T>>());
}

std::vector<ov::Extension::Ptr> all() {
  if (involution_interface() != kInterface) {
    OPENVINO_THROW("involution: this extension was compiled for another version of the library; call "
                   "involution.export.openvino.extension() again");
  }
  std::vector<ov::Extension::Ptr> extensions;
  add<Involution>(extensions, "Involution");
  add<InvolutionOfField>(extensions, "InvolutionOfField");
  add<Correlation>(extensions, "Correlation");
  return extensions;
}

}  // namespace

OPENVINO_CREATE_EXTENSIONS(all());
