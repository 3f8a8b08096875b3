# fish completion for nvpn: its commands
complete -c nvpn -n __fish_use_subcommand -a "up down reload show peer genkey genpsk pubkey import export check demo device set setconf addconf syncconf showconf save strip"
