# tessera_library(NAME [SOURCES ..] [DEPS ..])      static library tessera_NAME, alias tessera::NAME
# tessera_binary(NAME SOURCES .. DEPS .. [OUTPUT x])
# tessera_test(NAME SOURCES .. DEPS .. [LABEL unit] [TIMEOUT s])   Catch2 binary, one ctest entry
# All take warnings as errors; includes are spelled from the top of the tree.

# Time-outs of tests are for a plain build.
set(TESSERA_TEST_TIMEOUT_FACTOR 1)
if(TESSERA_SANITIZE)
  set(TESSERA_TEST_TIMEOUT_FACTOR 6)
endif()

function(tessera_compile_options target)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wpedantic -Wnon-virtual-dtor -Woverloaded-virtual -Wimplicit-fallthrough
    -Wno-missing-field-initializers $<$<BOOL:${TESSERA_WERROR}>:-Werror>)
  if(TESSERA_SANITIZE)
    # GCC's flow analysis trips over the sanitizers' checks. The plain builds have this warning.
    target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
  endif()
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR})
endfunction()

function(tessera_pch target)
  if(TESSERA_PCH)
    target_precompile_headers(${target} REUSE_FROM tessera_pch)
    target_compile_options(${target} PRIVATE -pthread)
  endif()
  # gRPC's generated services hide their base classes' methods by design; gcc 12 sees array bounds
  # broken inside std::string where there are none (GCC bug 105329 and its kin).
  target_compile_options(${target} PRIVATE
    -Wno-overloaded-virtual -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread
    -Wno-restrict)
endfunction()

function(tessera_library name)
  cmake_parse_arguments(A "PCH" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(tessera_${name} STATIC ${A_SOURCES})
  add_library(tessera::${name} ALIAS tessera_${name})
  target_link_libraries(tessera_${name} PUBLIC ${A_DEPS} PRIVATE ${A_PRIVATE_DEPS})
  tessera_compile_options(tessera_${name})
  if(A_PCH)
    tessera_pch(tessera_${name})
  endif()
endfunction()

function(tessera_binary name)
  cmake_parse_arguments(A "PCH" "OUTPUT" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE ${A_DEPS})
  tessera_compile_options(${name})
  tessera_sanitizer_support(${name})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  if(A_OUTPUT)
    set_target_properties(${name} PROPERTIES OUTPUT_NAME ${A_OUTPUT})
  endif()
  if(A_PCH)
    tessera_pch(${name})
  endif()
endfunction()

# Programs of a thread-sanitizer build learn about absl::Mutex.
if(TESSERA_SANITIZE MATCHES "thread" AND NOT TARGET tessera_tsan_abseil)
  add_library(tessera_tsan_abseil OBJECT ${CMAKE_SOURCE_DIR}/tools/cmake/tsan_abseil.cc)
endif()
function(tessera_sanitizer_support target)
  if(TARGET tessera_tsan_abseil)
    target_link_libraries(${target} PRIVATE $<TARGET_OBJECTS:tessera_tsan_abseil> ${CMAKE_DL_LIBS})
  endif()
endfunction()

# Catch2's main, compiled once.
if(NOT TARGET tessera_catch_main)
  add_library(tessera_catch_main STATIC ${CMAKE_SOURCE_DIR}/tools/cmake/catch_main.cc)
endif()

function(tessera_test name)
  cmake_parse_arguments(A "PCH" "LABEL;TIMEOUT" "SOURCES;DEPS;ARGS" ${ARGN})
  if(NOT A_LABEL)
    set(A_LABEL unit)
  endif()
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 900)
  endif()
  math(EXPR timeout "${A_TIMEOUT} * ${TESSERA_TEST_TIMEOUT_FACTOR}")
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE ${A_DEPS} tessera_catch_main)
  tessera_compile_options(${name})
  tessera_sanitizer_support(${name})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(A_PCH)
    tessera_pch(${name})
  endif()
  add_test(NAME ${name} COMMAND ${name} ${A_ARGS})
  set_tests_properties(${name} PROPERTIES LABELS ${A_LABEL} TIMEOUT ${timeout})
endfunction()
