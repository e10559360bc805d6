// A C plugin with a libc, on WASI preview 1: checks what it can access.
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

__attribute__((export_name("greet"))) int greet(void) {
  char *text = malloc(64);
  snprintf(text, 64, "hello %d", 42);
  puts(text);
  fprintf(stderr, "to standard error");
  free(text);
  return 0;
}

// Each bit is a resource that a plugin must not be able to access.
__attribute__((export_name("reach"))) int reach(void) {
  int reached = 0;
  if (open("/etc/passwd", O_RDONLY) >= 0) reached |= 1;
  if (opendir(".") != NULL) reached |= 2;
  if (getenv("PATH") != NULL || getenv("HOME") != NULL) reached |= 4;
  if (getchar() != EOF) reached |= 8;
  if (time(NULL) < 1700000000) reached |= 16;
  return reached;
}

__attribute__((export_name("leave"))) int leave(void) { exit(7); }

__attribute__((export_name("nap"))) int nap(void) { return (int)sleep(3600); }
