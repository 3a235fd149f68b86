# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_ssh_substituter_global_optspecs
    string join \n query substitute= serve write store= host= option= v/verbose q/quiet log-format= h/help V/version
end

function __fish_ssh_substituter_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_ssh_substituter_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_ssh_substituter_using_subcommand
    set -l cmd (__fish_ssh_substituter_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -l substitute -d 'Fetch the store path PATH and restore it at DEST' -r -F
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -l store -d 'Use these of the configured hosts (separated by commas or spaces)' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -l query -d 'Answer "have" and "info" requests on stdin (the text protocol of Nix 1.7 to 1.11)'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -l serve -d 'Speak the `nix-store --serve` protocol on stdin and stdout (Nix 2, Lix)'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -l write -d 'Accepted, since Nix passes it; nothing is ever written'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -f -a "get" -d 'Fetch store paths and all they refer to, with Nix or without'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -f -a "push" -d 'Send store paths and all they refer to to hosts'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -f -a "status" -d 'Say how the hosts, their connections and the cache are'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -f -a "doctor" -d 'Check the whole set-up, and say how to fix what is wrong'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -f -a "cache" -d 'The answers that are kept on disk'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -f -a "config" -d 'The configuration'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -f -a "serve-local" -d 'Serve a local store on stdin and stdout, read only, as `nix-store --serve` does'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -f -a "http" -d 'Serve store paths as a binary cache over HTTP, for \'substituters = http://127.0.0.1:5001\' in nix.conf'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -f -a "key" -d 'Keys that sign store paths'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -f -a "engine" -d 'Serve all processes of this user until nobody needs it; front ends start it by themselves'
complete -c ssh-substituter -n "__fish_ssh_substituter_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand get" -l to -d 'Put them into a folder laid out as a store (DIR/nix/store), or with file:///DIR into a binary cache' -r -f -a "(__fish_complete_directories)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand get" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand get" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand get" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand get" -l into-store -d 'Put them into this machine\'s Nix store, by the installed Nix'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand get" -l dry-run -d 'Only say what would be fetched, from where'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand get" -l no-closure -d 'These paths alone, without what they refer to'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand get" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand get" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand get" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand get" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l to -d 'Send to this host instead of those in ssh-substituter-push-hosts; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l sign -d 'Sign what is sent with the secret key in this file, instead of that in push-signing-key' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l store -d 'Root of the local store: a folder, or `local?root=FOLDER` as in Nix' -r -f -a "(__fish_complete_directories)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l timeout -d 'Wait no longer than so many seconds' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l stdin -d 'Also send the paths that stand on standard input, separated by white space'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l no-closure -d 'These paths alone, without what they refer to'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l derivers -d 'Also the derivations that built these paths, where they are here, with what those refer to'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l outputs -d 'A derivation among these paths stands for its outputs that are here'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l any -d 'It is enough if one host has everything in the end'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l dry-run -d 'Only say what is missing where, and how large it is'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l json -d 'As JSON'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l queue -d 'Only write down what is to be sent, and return at once'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -l wait -d 'Wait until all that was queued is sent'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand push" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand status" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand status" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand status" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand status" -l json -d 'As JSON'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand status" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand status" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand status" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand doctor" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand doctor" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand doctor" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand doctor" -l json -d 'As JSON'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand doctor" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand doctor" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand doctor" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and not __fish_seen_subcommand_from stats clear path help" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and not __fish_seen_subcommand_from stats clear path help" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and not __fish_seen_subcommand_from stats clear path help" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and not __fish_seen_subcommand_from stats clear path help" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and not __fish_seen_subcommand_from stats clear path help" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and not __fish_seen_subcommand_from stats clear path help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and not __fish_seen_subcommand_from stats clear path help" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and not __fish_seen_subcommand_from stats clear path help" -f -a "stats" -d 'Say how many answers of which host there are, and how large the file is'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and not __fish_seen_subcommand_from stats clear path help" -f -a "clear" -d 'Forget all answers, or those of one host'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and not __fish_seen_subcommand_from stats clear path help" -f -a "path" -d 'Print the path of the file'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and not __fish_seen_subcommand_from stats clear path help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from stats" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from stats" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from stats" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from stats" -l json -d 'As JSON'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from stats" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from stats" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from stats" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from stats" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from clear" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from clear" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from clear" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from clear" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from clear" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from clear" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from clear" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from path" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from path" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from path" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from path" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from path" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from path" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from path" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from help" -f -a "stats" -d 'Say how many answers of which host there are, and how large the file is'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from help" -f -a "clear" -d 'Forget all answers, or those of one host'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from help" -f -a "path" -d 'Print the path of the file'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand cache; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and not __fish_seen_subcommand_from show help" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and not __fish_seen_subcommand_from show help" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and not __fish_seen_subcommand_from show help" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and not __fish_seen_subcommand_from show help" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and not __fish_seen_subcommand_from show help" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and not __fish_seen_subcommand_from show help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and not __fish_seen_subcommand_from show help" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and not __fish_seen_subcommand_from show help" -f -a "show" -d 'Print all settings that are in force, and where each comes from'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and not __fish_seen_subcommand_from show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and __fish_seen_subcommand_from show" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and __fish_seen_subcommand_from show" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and __fish_seen_subcommand_from show" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and __fish_seen_subcommand_from show" -l json -d 'As JSON'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and __fish_seen_subcommand_from show" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and __fish_seen_subcommand_from show" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and __fish_seen_subcommand_from show" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "show" -d 'Print all settings that are in force, and where each comes from'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand serve-local" -l store -d 'Root of the store: a folder, or `local?root=FOLDER` as in Nix' -r -f -a "(__fish_complete_directories)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand serve-local" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand serve-local" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand serve-local" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand serve-local" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand serve-local" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand serve-local" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand serve-local" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand http" -l listen -d 'Address and port to listen on; repeatable. Port 0 takes any that is free, and says which' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand http" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand http" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand http" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand http" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand http" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand http" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand http" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and not __fish_seen_subcommand_from generate help" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and not __fish_seen_subcommand_from generate help" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and not __fish_seen_subcommand_from generate help" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and not __fish_seen_subcommand_from generate help" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and not __fish_seen_subcommand_from generate help" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and not __fish_seen_subcommand_from generate help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and not __fish_seen_subcommand_from generate help" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and not __fish_seen_subcommand_from generate help" -f -a "generate" -d 'Make a pair of keys in Nix\'s format: the secret one in FILE, the public one in FILE.pub and on standard output'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and not __fish_seen_subcommand_from generate help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and __fish_seen_subcommand_from generate" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and __fish_seen_subcommand_from generate" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and __fish_seen_subcommand_from generate" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and __fish_seen_subcommand_from generate" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and __fish_seen_subcommand_from generate" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and __fish_seen_subcommand_from generate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and __fish_seen_subcommand_from generate" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "generate" -d 'Make a pair of keys in Nix\'s format: the secret one in FILE, the public one in FILE.pub and on standard output'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and not __fish_seen_subcommand_from stop status help" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and not __fish_seen_subcommand_from stop status help" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and not __fish_seen_subcommand_from stop status help" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and not __fish_seen_subcommand_from stop status help" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and not __fish_seen_subcommand_from stop status help" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and not __fish_seen_subcommand_from stop status help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and not __fish_seen_subcommand_from stop status help" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and not __fish_seen_subcommand_from stop status help" -f -a "stop" -d 'End all engines of this user; what they serve goes on without them'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and not __fish_seen_subcommand_from stop status help" -f -a "status" -d 'Print how all engines of this user are, as a JSON list'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and not __fish_seen_subcommand_from stop status help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from stop" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from stop" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from stop" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from stop" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from stop" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from stop" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from stop" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from status" -l host -d 'Use this host instead of the configured ones; repeatable' -r -f -a "(__fish_print_hostnames)"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from status" -l option -d 'Set a configuration option, as in nix.conf' -r
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from status" -l log-format -d 'How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs' -r -f -a "bar\t'Bars on a terminal, plain lines elsewhere'
raw\t'Plain lines'
internal-json\t'Lines of JSON after `@nix`, as Nix prints them'"
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from status" -s v -l verbose -d 'Say more; twice for everything'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from status" -s q -l quiet -d 'Say errors only'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from status" -s V -l version -d 'Print version'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from help" -f -a "stop" -d 'End all engines of this user; what they serve goes on without them'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from help" -f -a "status" -d 'Print how all engines of this user are, as a JSON list'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand engine; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and not __fish_seen_subcommand_from get push status doctor cache config serve-local http key engine help" -f -a "get" -d 'Fetch store paths and all they refer to, with Nix or without'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and not __fish_seen_subcommand_from get push status doctor cache config serve-local http key engine help" -f -a "push" -d 'Send store paths and all they refer to to hosts'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and not __fish_seen_subcommand_from get push status doctor cache config serve-local http key engine help" -f -a "status" -d 'Say how the hosts, their connections and the cache are'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and not __fish_seen_subcommand_from get push status doctor cache config serve-local http key engine help" -f -a "doctor" -d 'Check the whole set-up, and say how to fix what is wrong'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and not __fish_seen_subcommand_from get push status doctor cache config serve-local http key engine help" -f -a "cache" -d 'The answers that are kept on disk'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and not __fish_seen_subcommand_from get push status doctor cache config serve-local http key engine help" -f -a "config" -d 'The configuration'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and not __fish_seen_subcommand_from get push status doctor cache config serve-local http key engine help" -f -a "serve-local" -d 'Serve a local store on stdin and stdout, read only, as `nix-store --serve` does'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and not __fish_seen_subcommand_from get push status doctor cache config serve-local http key engine help" -f -a "http" -d 'Serve store paths as a binary cache over HTTP, for \'substituters = http://127.0.0.1:5001\' in nix.conf'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and not __fish_seen_subcommand_from get push status doctor cache config serve-local http key engine help" -f -a "key" -d 'Keys that sign store paths'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and not __fish_seen_subcommand_from get push status doctor cache config serve-local http key engine help" -f -a "engine" -d 'Serve all processes of this user until nobody needs it; front ends start it by themselves'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and not __fish_seen_subcommand_from get push status doctor cache config serve-local http key engine help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and __fish_seen_subcommand_from cache" -f -a "stats" -d 'Say how many answers of which host there are, and how large the file is'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and __fish_seen_subcommand_from cache" -f -a "clear" -d 'Forget all answers, or those of one host'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and __fish_seen_subcommand_from cache" -f -a "path" -d 'Print the path of the file'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "show" -d 'Print all settings that are in force, and where each comes from'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "generate" -d 'Make a pair of keys in Nix\'s format: the secret one in FILE, the public one in FILE.pub and on standard output'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and __fish_seen_subcommand_from engine" -f -a "stop" -d 'End all engines of this user; what they serve goes on without them'
complete -c ssh-substituter -n "__fish_ssh_substituter_using_subcommand help; and __fish_seen_subcommand_from engine" -f -a "status" -d 'Print how all engines of this user are, as a JSON list'
