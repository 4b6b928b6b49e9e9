# cmake --install: the comm layer for other programs, and bin/peal. Headers, one library in two
# forms with what it needs of core/base and core/device inside, a CMake package, a pkg-config file.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(PEAL_PUBLIC_HEADERS
    comm/communicator.h comm/device_comm.h comm/buckets.h comm/bucket_shards.h comm/tree.h
    comm/wire.h comm/mpi_comm.h comm/peal.h
    core/base/dtype.h core/base/error.h core/base/text.h
    core/device/buffer.h core/device/device.h core/device/stream.h core/device/tensor.h)

# All of base and device: the linker takes of an archive what is used.
add_library(peal_comm_static STATIC
            $<TARGET_OBJECTS:peal_comm> $<TARGET_OBJECTS:peal_device> $<TARGET_OBJECTS:peal_base>)
add_library(peal_comm_shared SHARED $<TARGET_OBJECTS:peal_comm> $<TARGET_OBJECTS:peal_device>)
target_link_libraries(peal_comm_shared PRIVATE peal_base MPI::MPI_CXX Threads::Threads)
if(PEAL_HAS_CUDA)
  target_link_libraries(peal_comm_shared PRIVATE CUDA::cudart_static)
endif()
set_target_properties(peal_comm_static PROPERTIES EXPORT_NAME comm_static OUTPUT_NAME peal_comm)
set_target_properties(peal_comm_shared PROPERTIES EXPORT_NAME comm OUTPUT_NAME peal_comm
                      VERSION ${PROJECT_VERSION}
                      SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
foreach(library peal_comm_static peal_comm_shared)
  set_target_properties(${library} PROPERTIES LINKER_LANGUAGE CXX
                        ARCHIVE_OUTPUT_DIRECTORY package LIBRARY_OUTPUT_DIRECTORY package)
  target_include_directories(${library} INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
endforeach()

if(TARGET peal)
  install(TARGETS peal)
endif()
install(TARGETS peal_comm_static peal_comm_shared EXPORT PealTargets)

# In the tree headers include each other from its root; installed they stand in peal/, so that a
# comm/ or core/ of the host program is never taken for ours.
install(CODE "
  foreach(header ${PEAL_PUBLIC_HEADERS})
    file(READ \"${CMAKE_SOURCE_DIR}/\${header}\" text)
    string(REGEX REPLACE \"#include \\\"(comm|core)/\" \"#include \\\"peal/\\\\1/\" text \"\${text}\")
    set(to \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_INCLUDEDIR}/peal/\${header}\")
    message(STATUS \"Installing: \${to}\")
    file(WRITE \"\${to}\" \"\${text}\")
  endforeach()")

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/Peal)
install(EXPORT PealTargets NAMESPACE Peal:: DESTINATION ${package_folder})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/PealConfig.cmake.in PealConfig.cmake
                              INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(PealConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/PealConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/PealConfigVersion.cmake DESTINATION ${package_folder})

# From the folder of the .pc file up to the prefix, so that the installed tree can be moved.
file(RELATIVE_PATH PC_TO_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
string(REGEX REPLACE "/$" "" PC_TO_PREFIX ${PC_TO_PREFIX})
list(TRANSFORM MPI_CXX_INCLUDE_DIRS PREPEND -I OUTPUT_VARIABLE PC_MPI_CFLAGS)
list(JOIN PC_MPI_CFLAGS " " PC_MPI_CFLAGS)
list(JOIN MPI_CXX_LIBRARIES " " PC_MPI_LIBS)
set(PC_CUDA_LIBS)
if(PEAL_HAS_CUDA)
  string(APPEND PC_CUDA_LIBS " -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt")
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/peal-comm.pc.in peal-comm.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/peal-comm.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
