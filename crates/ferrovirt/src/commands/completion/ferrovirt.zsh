#compdef ferrovirt
# Completion of ferrovirt for zsh: source <(ferrovirt completion zsh)
_ferrovirt() {
    local -a found
    found=("${(@f)$("${words[1]}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=(${found:#})
    if (( ${#found} )); then
        # What ends in a slash or an equals sign goes on.
        compadd -S '' -- ${(M)found:#*[/=]}
        compadd -- ${found:#*[/=]}
    else
        _files
    fi
}
# Loaded as a function of its own it is called at once.
if [[ ${funcstack[1]} == _ferrovirt ]]; then
    _ferrovirt "$@"
else
    compdef _ferrovirt ferrovirt
fi
