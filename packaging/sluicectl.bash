# Completion of sluicectl for bash: sluicectl itself knows its words.
_sluicectl() {
  mapfile -t COMPREPLY < <(sluicectl complete "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
  [[ ${COMPREPLY[0]} != *= ]] || compopt -o nospace
}
complete -F _sluicectl sluicectl
