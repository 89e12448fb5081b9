// Runs a net with involutions without Python: a package that AOTInductor made, and the library's kernels beside it.
//
//   run LIBINVOLUTION_NATIVE MODEL.pt2 SIZE
//
// prints the first values of the result for a batch of ones, 1×3×SIZE×SIZE.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s LIBINVOLUTION_NATIVE MODEL.pt2 SIZE\n", argv[0]);
    return 2;
  }
  // The operators have to be there before the package that calls them.
  void* library = dlopen(argv[1], RTLD_NOW);
  if (!library) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  auto* register_operators =
      reinterpret_cast<const char* (*)(const char*, int)>(dlsym(library, "involution_register_operators"));
  if (!register_operators) {
    std::fprintf(stderr, "%s is not involution's library\n", argv[1]);
    return 1;
  }
  if (const char* missing = register_operators(nullptr, 1)) {
    std::fprintf(stderr, "this libtorch lacks %s; use 2.11 or later\n", missing);
    return 1;
  }
  try {
    const c10::InferenceMode guard;
    torch::inductor::AOTIModelPackageLoader model(argv[2]);
    const int size = std::atoi(argv[3]);
    const at::Tensor result = model.run({torch::ones({1, 3, size, size})}).at(0).flatten();
    for (int i = 0; i < 10 && i < result.numel(); i++) std::printf("%.6f\n", result[i].item<float>());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
