// What a library of host-compiled kernels shows to ctypes: functions that return an error's text, or null.
#pragma once
#include <string>
#include <utility>

namespace simt {

template <typename Work>
const char* text_of_error(Work&& work) {
  static std::string text;
  try {
    std::forward<Work>(work)();
    return nullptr;
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  }
}

}  // namespace simt
