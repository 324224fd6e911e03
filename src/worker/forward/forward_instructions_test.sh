#!/bin/bash
# Instructions per packet of forwarding, counted by callgrind: the same on every run, where nanoseconds are not. Receiving and
# recycling of the workload's own queue are in the figure. Two run lengths are subtracted, so start-up does not count.
#
#   forward_instructions_test.sh PROGRAM RECORDED [--record]
set -euo pipefail
program=$1 recorded=$2 record=${3:-}
tolerance_percent=10  # compilers of one major version differ by less; a lost fast path costs far more

if ! command -v valgrind > /dev/null; then
  echo "SKIPPED: valgrind is not installed, so instructions per packet were NOT checked (apt install valgrind)"
  exit 77  # SKIP_RETURN_CODE
fi
# 64 packets per burst.
count() {
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 | awk '/Collected/ { print $NF }'
}
few=200 many=1200
failed=0 lines=""
for ports in 1 4 64; do
  per_packet_x100=$(( ($(count $ports $many) - $(count $ports $few)) * 100 / ((many - few) * 64) ))
  lines+="$ports $per_packet_x100"$'\n'
  was=$(awk -v ports=$ports '$1 == ports { print $2 }' "$recorded" 2> /dev/null || true)
  echo "$ports ports per burst: $((per_packet_x100 / 100)).$(printf %02d $((per_packet_x100 % 100))) instructions per packet (recorded: ${was:-none} / 100)"
  if [[ $record != --record ]] && { [[ -z $was ]] || (( per_packet_x100 * 100 > was * (100 + tolerance_percent) )); }; then
    echo "  more than ${tolerance_percent}% above the record in $recorded"
    failed=1
  elif [[ $record != --record ]] && (( per_packet_x100 * 100 < was * (100 - tolerance_percent) )); then
    echo "  far below the record: keep the gain by running this script with --record"
  fi
done
if [[ $record == --record ]]; then
  { echo "# ports per burst, instructions per packet * 100 (release preset, g++ 12, x86-64)"; printf %s "$lines"; } > "$recorded"
fi
exit $failed
