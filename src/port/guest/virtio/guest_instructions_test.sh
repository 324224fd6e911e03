#!/bin/bash
# Instructions per packet of a guest's lane, counted by callgrind: the same on every run, where nanoseconds are not. Only the
# lane counts (receive = copy_in, transmit = tx_burst and tx_done), not the driver that the program plays.
#
#   guest_instructions_test.sh PROGRAM RECORDED [--record]
set -euo pipefail
program=$1 recorded=$2 record=${3:-}
tolerance_percent=10  # compilers of one major version differ by less; a lost fast path costs far more

if ! command -v valgrind > /dev/null; then
  echo "SKIPPED: valgrind is not installed, so instructions per packet were NOT checked (apt install valgrind)"
  exit 77  # SKIP_RETURN_CODE
fi
bursts=300  # of 64 packets
count() {
  local rings=$1 bytes=$2
  shift 2
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$@" "$program" "$rings" "$bytes" $bursts 2>&1 | awk '/Collected/ { print $NF }'
}
failed=0 lines=""
for rings in split split_in_order packed packed_in_order; do
  for way in receive transmit; do
    if [[ $way == receive ]]; then
      toggles=(--toggle-collect='sluice::GuestLane::copy_in*')
    else
      toggles=(--toggle-collect='sluice::GuestLane::burst*' --toggle-collect='sluice::GuestLane::done*')
    fi
    per_packet_x100=$(( $(count $rings 64 "${toggles[@]}") * 100 / (bursts * 64) ))
    lines+="$rings $way $per_packet_x100"$'\n'
    was=$(awk -v rings=$rings -v way=$way '$1 == rings && $2 == way { print $3 }' "$recorded" 2> /dev/null || true)
    echo "$rings, $way: $((per_packet_x100 / 100)).$(printf %02d $((per_packet_x100 % 100))) instructions per packet (recorded: ${was:-none} / 100)"
    if [[ $record != --record ]] && { [[ -z $was ]] || (( per_packet_x100 * 100 > was * (100 + tolerance_percent) )); }; then
      echo "  more than ${tolerance_percent}% above the record in $recorded"
      failed=1
    elif [[ $record != --record ]] && (( per_packet_x100 * 100 < was * (100 - tolerance_percent) )); then
      echo "  far below the record: keep the gain by running this script with --record"
    fi
  done
done
if [[ $record == --record ]]; then
  { echo "# rings, way, instructions per packet of 64 bytes * 100 (release preset, g++ 12, x86-64)"; printf %s "$lines"; } > "$recorded"
fi
exit $failed
