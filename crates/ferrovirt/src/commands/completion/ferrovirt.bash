# Completion of ferrovirt for bash: source <(ferrovirt completion bash)
_ferrovirt() {
    local IFS=$'\n'
    COMPREPLY=($("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    # What ends in a slash or an equals sign goes on.
    [[ ${#COMPREPLY[@]} -ne 1 || ${COMPREPLY[0]} != *[/=] ]] || compopt -o nospace
}
complete -o default -F _ferrovirt ferrovirt
