// The protocol between emulation.h and the tests. Numbers are int64 in native byte order.
#include <sys/mman.h>
#include <sys/time.h>

#include <cstdio>
#include <cstdlib>

#include "emulation.h"

namespace emulation {
namespace {

// CPU time limit of a launch, which ends kernels that never return. Wall time would count other programs.
constexpr int MAX_SECONDS = 60;

void watch(int seconds) {
    const itimerval limit{{0, 0}, {seconds, 0}};
    setitimer(ITIMER_PROF, &limit, nullptr);
}

void read(void* target, std::size_t n_bytes) {
    if (std::fread(target, 1, n_bytes, stdin) != n_bytes) fail("the input ends in the middle of a launch");
}

std::size_t read_number() {
    std::int64_t number;
    read(&number, sizeof number);
    return static_cast<std::size_t>(number);
}

unsigned read_size() { return static_cast<unsigned>(read_number()); }

// A piece of an argument that is received and sent back: all of it, or one of the few rows of an array too large to
// send.
struct Piece {
    unsigned char* data;
    std::size_t n_bytes;
};

// The memory of an argument, freed after the launch.
class Memory {
  public:
    Memory(std::size_t n_bytes, bool sparse)
        : n_bytes_(n_bytes), sparse_(sparse), data_(sparse ? reserve(n_bytes) : std::malloc(n_bytes)) {}
    Memory(Memory&& other) noexcept : n_bytes_(other.n_bytes_), sparse_(other.sparse_), data_(other.data_) {
        other.data_ = nullptr;
    }
    ~Memory() {
        if (data_) sparse_ ? static_cast<void>(munmap(data_, n_bytes_)) : std::free(data_);
    }
    Argument argument() const { return {n_bytes_, static_cast<unsigned char*>(data_)}; }

  private:
    std::size_t n_bytes_;
    bool sparse_;
    void* data_;
};

Memory read_argument(std::vector<Piece>& pieces) {
    const std::size_t n_bytes = read_number();
    Memory memory(n_bytes, read_number() != 0);
    for (std::size_t n_pieces = read_number(); n_pieces > 0; --n_pieces) {
        unsigned char* const data = memory.argument().data + read_number();
        pieces.push_back({data, read_number()});
        read(data, pieces.back().n_bytes);
    }
    return memory;
}

void answer_launch(void (*call)(const Argument*), std::size_t n_arguments) {
    const uint3 grid{read_size(), read_size(), read_size()}, block{read_size(), read_size(), read_size()};
    const std::size_t shared_bytes = read_number(), schedule = read_number();
    if (read_number() != n_arguments) fail("a wrong number of arguments");
    std::vector<Memory> memories;
    std::vector<Piece> pieces;
    Launch launch{grid, block, shared_bytes, schedule, {}, call};
    for (std::size_t i = 0; i < n_arguments; ++i) {
        memories.push_back(read_argument(pieces));
        launch.arguments.push_back(memories.back().argument());
    }
    watch(MAX_SECONDS);
    run(std::move(launch));
    watch(0);
    for (const Piece& piece : pieces) std::fwrite(piece.data, 1, piece.n_bytes, stdout);
    std::fflush(stdout);
}

}  // namespace

int serve(void (*call)(const Argument*), std::size_t n_arguments) {
    for (int c; (c = std::getchar()) != EOF;) {
        std::ungetc(c, stdin);
        answer_launch(call, n_arguments);
    }
    return 0;
}

}  // namespace emulation
