# Hook for CMAKE_PROJECT_INCLUDE. ggml makes its umbrella library wait for all 14 variants of the CPU
# backend although it opens them at run time; without that wait a few chosen variants can be built alone.
include_guard(GLOBAL)
function(add_dependencies target)
    if(NOT target STREQUAL "ggml")
        _add_dependencies(${ARGV})
    endif()
endfunction()
