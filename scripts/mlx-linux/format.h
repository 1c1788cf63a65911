/* std::format by way of {fmt}, for compilers whose library lacks <format> (g++ before 13). Put in
   before everything else with -include. */
#pragma once
#ifdef __cplusplus
#if __has_include(<format>)
#include <format>
#else
#define FMT_HEADER_ONLY
#include <fmt/format.h>
namespace std {
using fmt::format;
}
#endif
#endif
