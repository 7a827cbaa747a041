/** bash completion of the daemon's own flags. */
export const completionScript = `# bash completion for isula-builder
_isula_builder() {
  local flags="--config-dir --dataroot --debug --experimental --group --help --host --log-level --runroot --storage-driver --storage-opt --version"
  local current="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}"
  case "$previous" in
    --log-level) COMPREPLY=($(compgen -W "debug info warn error" -- "$current")) ;;
    --config-dir|--dataroot|--runroot) COMPREPLY=($(compgen -d -- "$current")) ;;
    *) COMPREPLY=($(compgen -W "$flags" -- "$current")) ;;
  esac
}
complete -F _isula_builder isula-builder
`
