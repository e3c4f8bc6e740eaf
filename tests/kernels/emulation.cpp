// The fibers and barriers of emulation.h. Compiled without instrumentation, so that sanitizers check the kernel and not
// how its threads are switched.
#include "emulation.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#ifdef EMULATE_WITH_ADDRESS_SANITIZER
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef EMULATE_WITH_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
#endif

uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
namespace {

constexpr std::size_t STACK_BYTES = 256 << 10;
constexpr unsigned LANES = 32;
constexpr unsigned char GARBAGE = 0xa5;  // what shared memory holds when a block begins

enum class State { ready, waiting, done };

// A stack and its position. Contexts start a fiber; the compiler's built-in jumps switch between fibers without system
// calls.
struct Fiber {
    void* jump_buffer[5];
    ucontext_t context;
    bool started;
    void* stack;
    const void* bottom;
    std::size_t n_bytes;
    void* fake_stack;
    void* sanitizer_thread;
    uint3 thread;
    State state;
    Kind kind;
    unsigned phase;  // barriers of its warp that the fiber has passed, modulo 2
};

// The values that the lanes of a warp exchange. Lanes that are ahead by one exchange write to the other half.
struct Warp {
    std::uint64_t values[2][LANES];
    char passed[2];  // addresses for the thread sanitizer
};

Fiber scheduler;
Fiber* running = &scheduler;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
char block_passed[2];
char grid_ended;
unsigned block_phase;
Launch launch;
unsigned char* shared_memory;
std::vector<unsigned char*> shared_memories;  // of all blocks

__attribute__((noinline)) void jump(Fiber& to) {
    if (to.started) __builtin_longjmp(to.jump_buffer, 1);
    to.started = true;
    setcontext(&to.context);
    std::abort();
}

__attribute__((noinline)) void switch_to(Fiber& to) {
    Fiber* const from = running;
    running = &to;
    threadIdx = to.thread;
#ifdef EMULATE_WITH_ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(&from->fake_stack, to.bottom, to.n_bytes);
#endif
#ifdef EMULATE_WITH_THREAD_SANITIZER
    __tsan_switch_to_fiber(to.sanitizer_thread, __tsan_switch_to_fiber_no_sync);
#endif
    if (__builtin_setjmp(from->jump_buffer) == 0) jump(to);
#ifdef EMULATE_WITH_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(running->fake_stack, nullptr, nullptr);
#endif
}

// Everything that the thread did before the barrier happens before what follows the barrier.
void arrive([[maybe_unused]] char* barrier) {
#ifdef EMULATE_WITH_THREAD_SANITIZER
    __tsan_release(barrier);
#endif
}

void leave([[maybe_unused]] char* barrier) {
#ifdef EMULATE_WITH_THREAD_SANITIZER
    __tsan_acquire(barrier);
#endif
}

void run_thread() {
#ifdef EMULATE_WITH_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.bottom, &scheduler.n_bytes);
#endif
    launch.call(launch.arguments.data());
    arrive(&grid_ended);
    running->state = State::done;
    switch_to(scheduler);
}

void prepare(Fiber& fiber, unsigned index) {
    if (!fiber.stack) fiber.stack = reserve(STACK_BYTES);
    fiber.bottom = fiber.stack;
    fiber.n_bytes = STACK_BYTES;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_thread, 0);
    fiber.started = false;
    fiber.state = State::ready;
    fiber.phase = 0;
    fiber.thread = {index, 0, 0};
#ifdef EMULATE_WITH_THREAD_SANITIZER
    fiber.sanitizer_thread = __tsan_create_fiber(0);
#endif
}

void suspend(Kind kind) {
    running->kind = kind;
    running->state = State::waiting;
    switch_to(scheduler);
}

bool all_wait(const Fiber* first, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
        if (first[i].state != State::waiting || first[i].kind != first->kind) return false;
    }
    return true;
}

void release(Fiber* first, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) first[i].state = State::ready;
}

// Release the threads whose barrier all others have reached; return false if there are none.
bool open_barriers() {
    bool opened = false;
    for (std::size_t first = 0; first < fibers.size(); first += LANES) {
        if (fibers[first].kind != Kind::syncthreads && all_wait(&fibers[first], LANES)) {
            release(&fibers[first], LANES);
            opened = true;
        }
    }
    if (!opened && fibers[0].kind == Kind::syncthreads && all_wait(fibers.data(), fibers.size())) {
        release(fibers.data(), fibers.size());
        block_phase ^= 1;
        opened = true;
    }
    return opened;
}

// Schedule 0 goes up, 1 goes down, others are random orders.
std::vector<std::size_t> order_of(std::size_t n, std::mt19937_64& random) {
    std::vector<std::size_t> order(n);
    for (std::size_t i = 0; i < n; ++i) order[i] = launch.schedule == 1 ? n - 1 - i : i;
    if (launch.schedule > 1) {
        for (std::size_t i = n; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
    }
    return order;
}

void run_block(std::mt19937_64& random) {
    // allocated for each block, so that the thread sanitizer does not confuse it with the memory of the previous block
    shared_memory = static_cast<unsigned char*>(std::malloc(launch.shared_bytes));
    shared_memories.push_back(shared_memory);
    std::memset(shared_memory, GARBAGE, launch.shared_bytes);
    for (unsigned i = 0; i < fibers.size(); ++i) prepare(fibers[i], i);
    for (std::size_t n_done = 0; n_done < fibers.size();) {
        bool progress = false;
        for (const std::size_t i : order_of(fibers.size(), random)) {
            if (fibers[i].state != State::ready) continue;
            switch_to(fibers[i]);
            n_done += fibers[i].state == State::done;
            progress = true;
        }
        if (!progress && !open_barriers()) fail("threads wait for others that never come to the same barrier");
    }
#ifdef EMULATE_WITH_THREAD_SANITIZER
    for (Fiber& fiber : fibers) __tsan_destroy_fiber(fiber.sanitizer_thread);
#endif
}

}  // namespace

void* reserve(std::size_t n_bytes) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* const pages = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (pages == MAP_FAILED) fail("no address space for a sparse array");
    return pages;
}

void run(Launch&& kernel_launch) {
    launch = std::move(kernel_launch);
    scheduler.started = true;
#ifdef EMULATE_WITH_THREAD_SANITIZER
    scheduler.sanitizer_thread = __tsan_get_current_fiber();
#endif
    gridDim = launch.grid;
    blockDim = launch.block;
    if (blockDim.x % LANES != 0 || blockDim.y != 1 || blockDim.z != 1) fail("blocks are rows of whole warps");
    for (std::size_t i = blockDim.x; i < fibers.size(); ++i) munmap(fibers[i].stack, STACK_BYTES);
    fibers.resize(blockDim.x);
    warps.resize(blockDim.x / LANES);
    std::mt19937_64 random(launch.schedule);
    const std::size_t n_blocks = static_cast<std::size_t>(gridDim.x) * gridDim.y * gridDim.z;
    for (const std::size_t b : order_of(n_blocks, random)) {
        const auto block = static_cast<unsigned>(b);
        blockIdx = {block % gridDim.x, block / gridDim.x % gridDim.y, block / gridDim.x / gridDim.y};
        run_block(random);
    }
    leave(&grid_ended);
    for (unsigned char* const memory : shared_memories) std::free(memory);
    shared_memories.clear();
}

unsigned char* dynamic_shared() { return shared_memory; }

void fail(const char* message) {
    std::fprintf(stderr, "emulation: %s (block %u, thread %u)\n", message, blockIdx.x, threadIdx.x);
    std::fflush(stderr);
    std::_Exit(3);
}

void wait(Kind kind) {
    if (kind == Kind::syncthreads) {
        char* const barrier = &block_passed[block_phase];
        arrive(barrier);
        suspend(kind);
        leave(barrier);
        return;
    }
    char* const barrier = &warps[threadIdx.x / LANES].passed[running->phase];
    running->phase ^= 1;
    arrive(barrier);
    suspend(kind);
    leave(barrier);
}

const std::uint64_t* exchange(unsigned mask, Kind kind, std::uint64_t value) {
    if (mask != 0xffffffffu) fail("a vote or shuffle names less than all lanes");
    std::uint64_t* const values = warps[threadIdx.x / LANES].values[running->phase];
    running->phase ^= 1;
    values[threadIdx.x % LANES] = value;
    suspend(kind);
    return values;
}

}  // namespace emulation
