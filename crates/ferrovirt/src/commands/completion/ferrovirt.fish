# Completion of ferrovirt for fish: ferrovirt completion fish | source
function __ferrovirt_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete -- $words[2..-1] 2>/dev/null
end
complete -c ferrovirt -a '(__ferrovirt_complete)'
