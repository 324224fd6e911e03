/* The same in C. */
#include <sluice/sluice.h>
#include <stdio.h>

int main(void) {
  sluice_port* port = NULL;
  if (sluice_attach("/nonexistent/port.sock", NULL, &port) != SLUICE_ERROR_NO_DAEMON || port != NULL) {
    return 1;
  }
  puts(sluice_last_error());
  return 0;
}
