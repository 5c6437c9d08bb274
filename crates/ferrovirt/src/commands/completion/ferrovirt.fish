# Completion of ferrovirt for fish: ferrovirt completion fish | source
function __ferrovirt_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] __complete -- $words[2..-1] 2>/dev/null)
    if set -q found[1]
        printf '%s\n' $found
    else
        __fish_complete_path $words[-1]
    end
end
complete -c ferrovirt -f -a '(__ferrovirt_complete)'
