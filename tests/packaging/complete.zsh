# zsh -f complete.zsh FOLDER LINE: prints what zsh offers after LINE, one word a line, with the completion functions in FOLDER.
# Completion needs zle and zle needs a terminal: a second zsh gets one, and shows there what its completion adds.

if [[ $1 == inner ]]; then
    fpath=($2 $fpath)
    autoload -Uz compinit && compinit -D -u
    compadd() {
        local -a hits
        # Calls that only ask what would match are the completion's own; all options stand before the words.
        if (( ! ${@[(I)-[OAD]]} )); then
            builtin compadd -A hits "$@"
            # Between control characters that nothing else prints.
            (( $#hits )) && print -rn -- $'\x01'$^hits$'\x02'
        fi
        builtin compadd "$@"
    }
    comppostfuncs=(ended)
    ended() { print -n -- $'\x03' }
    bindkey '^I' complete-word
    PS1=$'\x04'
    return
fi

zmodload zsh/zpty
zpty inner zsh -f -i
zpty -w inner "source ${(q)0:A} inner ${(q)1}"
zpty -r inner ready $'*\x04' || exit 1
zpty -w -n inner "$2"$'\t'
zpty -r inner shown $'*\x03' || exit 1
zpty -d inner

while [[ $shown == *$'\x01'* ]]; do
    shown=${shown#*$'\x01'}
    print -r -- ${shown%%$'\x02'*}
done
