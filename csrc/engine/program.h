// A saved model as a list of core calls, run for one event of one session at a time: what a call has to
// remember of a session (a recurrent state, the keys and values of a window of events) stands in a block of
// floats that the caller keeps. Registers are numbered in the order of the calls that write them. Calls
// before `last` run when an event comes, those after it when an answer is asked for. What a session keeps may
// be rounded to bf16, after every event: then it is exact in the upper half of a float.
#pragma once
#include <stdint.h>

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor_view.h"

namespace chronorec {

// A packed array.
TensorView view_of(const void* data, DType dtype, std::initializer_list<int64_t> shape);

// One event of a session, or the time of a request.
struct Moment {
  int32_t item;
  int64_t time;          // microseconds
  int64_t taken;         // events that the state has seen before this one
  const int64_t* times;  // of those, and of this one
  const int32_t* codes;  // of the event: its type; of a request: its profile; or none. -1: missing
};

// Causal self-attention in a window; tables are none where there is no such bias, as in
// JaggedAttentionStepArgs.
struct AttentionForm {
  int64_t heads, window;
  double scale;
  bool silu;
  double divisor;
  TensorView position, time_boundaries, time_table;
};

// Rows of a table by the time since the event before (`gap`: between boundaries), or by where a moment falls
// in a period of local time: `shifts` are added from the times `starts` on.
struct TimeBuckets {
  bool gap;
  TensorView table, boundaries;
  int64_t period;
  TensorView starts, shifts;
};

// A number per thread of a row of floats each, and scratch for calls: made once, on the first use.
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace();

  float* rows(int64_t floats) { return static_cast<float*>(rows_.at_least(floats * 4)); }
  TensorView scratch(int64_t bytes);

 private:
  struct Block {
    void* data = nullptr;
    int64_t bytes = 0;
    void* at_least(int64_t wanted);
  };
  Block rows_, scratch_;
};

class Call {
 public:
  virtual ~Call() = default;
  // `rows` holds the registers, each at its place; `state` what this call remembers.
  virtual void run(const Moment& moment, float* rows, float* state, Workspace& work) const = 0;
  // Whether what it remembers begins with the row that it wrote last.
  virtual bool keeps_its_row() const { return false; }
};

// Where a register stands among the rows, and how wide it is.
struct Register {
  int64_t place, width;
};

// Weights are views: whoever builds a program keeps them.
class Program {
 public:
  // states: what is kept of a session is rounded to, f32 or bf16.
  explicit Program(DType states = DType::f32) : states_(states) {}

  // Each adds a call and returns the number of the register that it writes.
  int64_t embed(const TensorView& table, double scale);
  int64_t layer_norm(int64_t in, const TensorView& weight, const TensorView& bias, double epsilon);
  int64_t dense(int64_t in, const TensorView& packed, const TensorView& bias, int64_t residual,
                int64_t activation);
  // Weights are packed as float, bf16 or u8 (RecurrentPackArgs).
  int64_t recurrent(const std::string& name, int64_t in, const TensorView& weight_ih,
                    const TensorView& weight_hh, const TensorView& bias, int64_t hidden_size);
  int64_t attention(int64_t in, const AttentionForm& form);
  int64_t multiply(int64_t in, int64_t by, int64_t residual);
  int64_t add_time(int64_t in, const TimeBuckets& buckets);
  // Adds the row of a table that a category has, the first row where it is missing: the event's type
  // before `last`, a column of the request's profile after it.
  int64_t add_category(int64_t in, const TensorView& table, int64_t column);
  int64_t last(int64_t in);

  int64_t width_of(int64_t reg) const { return at(reg).width; }
  bool has_last() const { return last_ >= 0; }
  // Items that events may have: all below this.
  int64_t most_items() const { return most_items_; }
  // Types that events may have: all below this; and whether any call looks at them.
  int64_t most_types() const { return most_types_; }
  bool reads_types() const { return most_types_ < INT32_MAX; }
  // Codes that each column of a request's profile may have: all below these.
  const std::vector<int64_t>& profile() const { return profile_; }
  // Floats that a session keeps, all zero before its first event.
  int64_t state_floats() const { return state_floats_; }
  DType states() const { return states_; }
  // The part of them that an answer reads.
  Register answer_state() const { return {last_state_, last_ >= 0 ? at(last_).width : 0}; }

  void append(const Moment& moment, float* state, Workspace& work) const;
  // What a request at moment.time is answered with, after the events that the state has seen: the register
  // that was written last.
  bool answers() const { return answer_ >= 0; }
  int64_t answer_width() const { return at(answer_).width; }
  const float* answer(const Moment& moment, const float* state, Workspace& work) const;

 private:
  struct Entry {
    std::unique_ptr<Call> call;
    int64_t state;  // where its own begins
  };

  const Register& at(int64_t reg) const;
  Register residual_of(int64_t reg, int64_t width) const;  // of width 0 where reg is negative: none
  Register next(int64_t width);
  int64_t add(std::unique_ptr<Call> call, const Register& out, int64_t state_floats = 0);

  DType states_;
  std::vector<Entry> on_event_, on_answer_;
  std::vector<Register> registers_;
  int64_t row_floats_ = 0, state_floats_ = 0;
  int64_t most_items_ = INT32_MAX, most_types_ = INT32_MAX;
  std::vector<int64_t> profile_;
  int64_t answer_ = -1;
  int64_t last_ = -1;  // register whose row a session keeps for the calls after `last`
  int64_t last_state_ = 0;
};

}  // namespace chronorec
