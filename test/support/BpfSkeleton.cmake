# bpf_skeleton(target file.bpf.c): compiles the BPF program and makes `target`, whose users include "file.skel.h".
find_program(SLUICE_BPF_CLANG NAMES clang-19 clang REQUIRED)
find_program(SLUICE_BPFTOOL NAMES bpftool PATHS /usr/sbin REQUIRED)
pkg_check_modules(LIBBPF REQUIRED IMPORTED_TARGET libbpf)  # imported targets are known to the folder that asks

function(bpf_skeleton target file)
  get_filename_component(stem ${file} NAME)
  string(REPLACE ".bpf.c" "" stem ${stem})
  set(object ${CMAKE_CURRENT_BINARY_DIR}/${stem}.bpf.o)
  set(header ${CMAKE_CURRENT_BINARY_DIR}/${stem}.skel.h)
  add_custom_command(OUTPUT ${header}
    COMMAND ${SLUICE_BPF_CLANG} -O2 -g -Wall -Werror -target bpf -mcpu=v3 -I${PROJECT_SOURCE_DIR}
            -idirafter /usr/include/${CMAKE_LIBRARY_ARCHITECTURE} -c ${CMAKE_CURRENT_SOURCE_DIR}/${file} -o ${object}
    COMMAND ${SLUICE_BPFTOOL} gen skeleton ${object} name ${stem} > ${header}
    DEPENDS ${file} ${PROJECT_SOURCE_DIR}/abi/packet_meta.h
    COMMENT "BPF skeleton ${stem}.skel.h"
    VERBATIM)
  add_custom_target(${target}_header DEPENDS ${header})
  add_library(${target} INTERFACE)
  add_dependencies(${target} ${target}_header)
  # SYSTEM: generated code is not held to our warnings.
  target_include_directories(${target} SYSTEM INTERFACE ${CMAKE_CURRENT_BINARY_DIR})
  target_link_libraries(${target} INTERFACE PkgConfig::LIBBPF)
endfunction()
