#include "launcher/cli.h"

int main(int argc, char** argv) {
  return peal::run_cli(argc, argv);
}
