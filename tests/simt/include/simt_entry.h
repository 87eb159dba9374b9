// What a library of host-compiled kernels shows to ctypes: functions that return an error's text, or null.
#pragma once
#include <exception>
#include <string>

namespace simt {

template <typename Work>
const char* text_of_error(const Work& work) {
  static std::string text;
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  }
}

}  // namespace simt
