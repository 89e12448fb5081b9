// The part of oneTBB's binary interface 12 (its library is libtbb.so.12) that a loop over a pool needs. OpenVINO's package
// has the library, whose threads are OpenVINO's own, but not its headers; this is what programs that were compiled with any
// version of those headers rely on: names, layouts, the order of virtual functions.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <vector>

#pragma GCC visibility push(default)
namespace tbb::detail {
namespace d1 {

using slot_id = unsigned short;
class task_arena_base;

// A group of tasks: 128 bytes that the library fills, but for the version of the layout.
class alignas(8) task_group_context {
  unsigned char bytes_[128];

 public:
  task_group_context() {
    std::memset(bytes_, 0, sizeof(bytes_));
    bytes_[12] = 1;
  }
  task_group_context(const task_group_context&) = delete;
};

struct execution_data {
  task_group_context* context;
  slot_id original_slot, affinity_slot;
};

class alignas(64) task {
  std::uint64_t version_and_traits_ = 0;

 protected:
  virtual ~task() = default;

 public:
  virtual task* execute(execution_data&) = 0;
  virtual task* cancel(execution_data&) = 0;

 private:
  std::uint64_t reserved_[6] = {};
};

class wait_context;

}  // namespace d1

namespace r1 {
void initialize(d1::task_group_context&);
void destroy(d1::task_group_context&);
void spawn(d1::task&, d1::task_group_context&);
void execute_and_wait(d1::task&, d1::task_group_context&, d1::wait_context&, d1::task_group_context&);
void notify_waiters(std::uintptr_t);
int max_concurrency(const d1::task_arena_base*);
}  // namespace r1

namespace d1 {

// How many tasks are still to end.
class wait_context {
  std::uint64_t version_and_traits_ = 1;
  std::atomic<std::uint64_t> count_;

 public:
  explicit wait_context(std::uint32_t count) : count_(count) {}
  wait_context(const wait_context&) = delete;

  void release() {
    const auto address = reinterpret_cast<std::uintptr_t>(this);
    // After the last one whoever waits may go on, and this be gone.
    if (count_.fetch_sub(1) == 1) r1::notify_waiters(address);
  }
};

}  // namespace d1
}  // namespace tbb::detail
#pragma GCC visibility pop

namespace pool {

using namespace tbb::detail;

// The loop of one call; its tasks take the next number until none is left.
struct Loop {
  std::int64_t count;
  void (*body)(void* task, std::int64_t i);
  void* argument;
  d1::wait_context waiting;
  std::atomic<std::int64_t> next{0};
};

class Task final : public d1::task {
  Loop* loop_;

  d1::task* end() {
    loop_->waiting.release();
    return nullptr;
  }

 public:
  explicit Task(Loop* loop) : loop_(loop) {}
  ~Task() override = default;

  d1::task* execute(d1::execution_data&) override {
    for (std::int64_t i; (i = loop_->next.fetch_add(1)) < loop_->count;) loop_->body(loop_->argument, i);
    return end();
  }
  // Nobody cancels: the group is this call's own.
  d1::task* cancel(d1::execution_data&) override { return end(); }
};
static_assert(sizeof(d1::task) == 64 && sizeof(d1::task_group_context) == 128 && sizeof(d1::wait_context) == 16);

// How many threads the calling thread's arena has: in OpenVINO, those of the stream that it serves.
inline std::int64_t threads() { return r1::max_concurrency(nullptr); }

// InvolutionParallel::run.
inline void run(void*, std::int64_t count, void (*body)(void* task, std::int64_t i), void* argument) {
  const std::int64_t tasks = threads() < count ? threads() : count;
  Loop loop{count, body, argument, d1::wait_context(std::uint32_t(tasks)), {}};
  std::vector<Task> all;
  all.reserve(std::size_t(tasks));
  for (std::int64_t i = 0; i < tasks; i++) all.emplace_back(&loop);
  d1::task_group_context group;
  r1::initialize(group);
  for (std::int64_t i = 1; i < tasks; i++) r1::spawn(all[std::size_t(i)], group);
  r1::execute_and_wait(all[0], group, loop.waiting, group);
  r1::destroy(group);
}

}  // namespace pool
