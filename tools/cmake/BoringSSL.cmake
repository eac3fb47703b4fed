# BoringSSL's libcrypto as a static library, for libtoken alone: target tessera_boringssl_crypto.
#
# The source is Debian's source package android-platform-external-boringssl; tools/setup unpacks it
# into TESSERA_CACHE (default ~/.cache/tessera). -DBORINGSSL_ROOT=DIR names another copy of it.
#
# Nothing may link this target into a program: its symbols have the names of OpenSSL's, which gRPC
# links. libtoken/CMakeLists.txt takes what it needs out of it and hides the rest.
set(BORINGSSL_ROOT "" CACHE PATH "Unpacked android-platform-external-boringssl source")
if(NOT BORINGSSL_ROOT)
  if(DEFINED ENV{TESSERA_CACHE})
    set(_cache $ENV{TESSERA_CACHE})
  else()
    set(_cache $ENV{HOME}/.cache/tessera)
  endif()
  set(BORINGSSL_ROOT ${_cache}/boringssl CACHE PATH "" FORCE)
endif()
if(NOT EXISTS ${BORINGSSL_ROOT}/android-sources.cmake)
  message(FATAL_ERROR "BoringSSL's source is not at ${BORINGSSL_ROOT}: run tools/setup, "
                      "or pass -DBORINGSSL_ROOT=<unpacked android-platform-external-boringssl>")
endif()

enable_language(ASM)

function(tessera_add_boringssl)
  set(source_root ${BORINGSSL_ROOT})
  # The list of sources spells its paths ${BORINGSSL_ROOT}src/..., so here the root ends in a slash.
  set(BORINGSSL_ROOT ${source_root}/)
  include(${source_root}/android-sources.cmake)

  set(sources ${crypto_sources})
  set(definitions "")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    list(APPEND sources ${crypto_sources_linux_x86_64})
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    list(APPEND sources ${crypto_sources_linux_aarch64})
  else()
    list(APPEND definitions OPENSSL_NO_ASM)
  endif()

  add_library(tessera_boringssl_crypto STATIC EXCLUDE_FROM_ALL ${sources})
  set_target_properties(tessera_boringssl_crypto PROPERTIES
    C_STANDARD 11
    C_EXTENSIONS ON
    C_VISIBILITY_PRESET hidden
    POSITION_INDEPENDENT_CODE ON)
  target_include_directories(tessera_boringssl_crypto SYSTEM PUBLIC ${source_root}/src/include)
  target_include_directories(tessera_boringssl_crypto PRIVATE ${source_root}/src/crypto)
  target_compile_definitions(tessera_boringssl_crypto PRIVATE
    BORINGSSL_IMPLEMENTATION _XOPEN_SOURCE=700 NDEBUG ${definitions})
  # The sanitizers stay off: the assembler code is blind to them, and this code is not ours to check.
  # Without their flags all builds compile the same objects, so the compiler cache has them already.
  get_target_property(options tessera_boringssl_crypto COMPILE_OPTIONS)
  list(FILTER options EXCLUDE REGEX "sanitize")
  set_target_properties(tessera_boringssl_crypto PROPERTIES COMPILE_OPTIONS "${options}")
  # One section a function lets the partial link drop all but the few that libtoken calls.
  target_compile_options(tessera_boringssl_crypto PRIVATE
    -O2 -w -Wa,--noexecstack
    $<$<COMPILE_LANGUAGE:C>:-ffunction-sections -fdata-sections>)
endfunction()

if(NOT TARGET tessera_boringssl_crypto)
  tessera_add_boringssl()
endif()
