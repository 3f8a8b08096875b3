# fish completion for nvpn; made by scripts/make-completions

# The words typed before the cursor that are neither options nor their values.
function __nvpn_words
    set -l skip 0
    for word in (commandline -opc)[2..]
        if test $skip = 1
            set skip 0
        else if string match -q -- '-*' $word
            contains -- $word --allowed-ips --config --dns --endpoint --expires --interface --keepalive --log-level --name --output --png --public-key --seconds --svg --uses -i -o; and set skip 1
        else
            echo $word
        end
    end
end

# Whether those words are a command with so many arguments behind it; `N+` for N or more.
function __nvpn_is
    set -l words (__nvpn_words)
    set -l command $argv[2..]
    set -l many (count $command)
    set -l behind (math (count $words) - $many)
    test $behind -ge 0; or return 1
    if test $many -gt 0
        test "$words[1..$many]" = "$command"; or return 1
    end
    switch $argv[1]
        case any
            return 0
        case '*+'
            test $behind -ge (string replace + '' $argv[1])
        case '*'
            test $behind -eq $argv[1]
    end
end

function __nvpn_interfaces
    command nvpn show interfaces 2>/dev/null | string split ' '
end

function __nvpn_shown
    __nvpn_interfaces
    string split ' ' 'all interfaces'
end

function __nvpn_files
    __fish_complete_path (commandline -ct) | string match -r '.*(?:\.toml|\.conf|/)(?:\t.*)?$'
end

function __nvpn_configs
    for file in /etc/{nvpn,wireguard}/*.{toml,conf}
        string replace -r '.*/(.*)\.(toml|conf)$' '$1' $file
    end
    __nvpn_files
end

function __nvpn_tunnels
    __nvpn_interfaces
    __nvpn_files
end

# Whom `nvpn client list` or `nvpn peer list` knows, of the tunnel that -i names.
function __nvpn_listed
    set -l words (commandline -opc)
    set -l interface
    if set -l at (contains -i -- -i $words; or contains -i -- --interface $words)
        set interface -i $words[(math $at + 1)]
    end
    command nvpn $argv[1] list --names $interface 2>/dev/null
end

# What may follow `nvpn set INTERFACE`.
function __nvpn_settings
    set -l words (__nvpn_words)
    switch $words[-1]
        case private-key preshared-key
            __fish_complete_path (commandline -ct)
        case fwmark persistent-keepalive
            echo off
        case listen-port endpoint allowed-ips
        case peer
            command nvpn show $words[2] peers 2>/dev/null
        case '*'
            if contains peer $words
                string split ' ' 'remove preshared-key endpoint persistent-keepalive allowed-ips peer'
            else
                string split ' ' 'listen-port fwmark private-key peer'
            end
    end
end

complete -c nvpn -f
complete -c nvpn -n '__nvpn_is 0' -s h -l help -d 'Show help'
complete -c nvpn -n '__nvpn_is 0' -s V -l version -d 'Show the version'
complete -c nvpn -n '__nvpn_is 0' -a up -d 'Bring a tunnel up from its file'
complete -c nvpn -n '__nvpn_is 0' -a down -d 'Take a tunnel down and remove all it made'
complete -c nvpn -n '__nvpn_is 0' -a reload -d 'Apply a changed file; unchanged peers do not notice'
complete -c nvpn -n '__nvpn_is 0' -a show -d 'Show tunnels and peers, and what is wrong'
complete -c nvpn -n '__nvpn_is 0' -a status -d 'Show tunnels and peers, and what is wrong'
complete -c nvpn -n '__nvpn_is 0' -a events -d 'Tell who comes and goes, as it happens'
complete -c nvpn -n '__nvpn_is 0' -a peer -d 'Add, list and remove the peers of a tunnel’s file'
complete -c nvpn -n '__nvpn_is 0' -a invite -d 'Let somebody join, with one line of text'
complete -c nvpn -n '__nvpn_is 0' -a join -d 'Join a server that has invited us'
complete -c nvpn -n '__nvpn_is 0' -a client -d 'List, revoke and rename a server’s clients'
complete -c nvpn -n '__nvpn_is 0' -a genkey -d 'Make a private key'
complete -c nvpn -n '__nvpn_is 0' -a genpsk -d 'Make a preshared key'
complete -c nvpn -n '__nvpn_is 0' -a pubkey -d 'Print the public key of a private key'
complete -c nvpn -n '__nvpn_is 0' -a import -d 'Turn a wg-quick file into nvpn’s'
complete -c nvpn -n '__nvpn_is 0' -a export -d 'Turn nvpn’s file into one for wg-quick'
complete -c nvpn -n '__nvpn_is 0' -a check -d 'Check configuration files; all mistakes at once'
complete -c nvpn -n '__nvpn_is 0' -a demo -d 'See a tunnel at work, on this machine alone'
complete -c nvpn -n '__nvpn_is 0' -a device -d 'Make only the interface, for wg to configure'
complete -c nvpn -n '__nvpn_is 0' -a set -d 'Change a running interface, as `wg set`'
complete -c nvpn -n '__nvpn_is 0' -a setconf -d 'Make an interface what a file says, as `wg setconf`'
complete -c nvpn -n '__nvpn_is 0' -a addconf -d 'Add a file’s settings to an interface, as `wg addconf`'
complete -c nvpn -n '__nvpn_is 0' -a syncconf -d 'As setconf, but peers that stay keep their sessions'
complete -c nvpn -n '__nvpn_is 0' -a showconf -d 'Print an interface as a file for setconf'
complete -c nvpn -n '__nvpn_is 0' -a save -d 'Write the running state into the tunnel’s file'
complete -c nvpn -n '__nvpn_is 0' -a strip -d 'Print a configuration as wg understands it'
complete -c nvpn -n '__nvpn_is 0' -a help -d 'Explain a command'
complete -c nvpn -n '__nvpn_is any up' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any up' -s f -l foreground -d 'Stay in front and log to standard error'
complete -c nvpn -n '__nvpn_is any up' -l take-over -d 'Go on with an interface of that name that the kernel has already'
complete -c nvpn -n '__nvpn_is any up' -l log-level -x -a 'debug info warning error' -d 'debug, info (the default), warning or error'
complete -c nvpn -n '__nvpn_is 0 up' -a '(__nvpn_configs)'
complete -c nvpn -n '__nvpn_is any down' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is 0 down' -a '(__nvpn_tunnels)'
complete -c nvpn -n '__nvpn_is any reload' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is 0 reload' -a '(__nvpn_tunnels)'
complete -c nvpn -n '__nvpn_is any show' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any show' -l plain -d 'The text of `wg show`, always'
complete -c nvpn -n '__nvpn_is any show' -l table -d 'The table, even through a pipe'
complete -c nvpn -n '__nvpn_is any show' -l json -d 'JSON, without any secret'
complete -c nvpn -n '__nvpn_is any show' -s w -l watch -d 'The table again and again, every 2 seconds or as given, with rates'
complete -c nvpn -n '__nvpn_is any show' -s v -l verbose -d 'The table with full keys, dropped packets and how packets are moved'
complete -c nvpn -n '__nvpn_is 0 show' -a '(__nvpn_shown)'
complete -c nvpn -n '__nvpn_is 1 show' -a 'public-key private-key listen-port fwmark peers preshared-keys endpoints allowed-ips latest-handshakes transfer persistent-keepalive dump'
complete -c nvpn -n '__nvpn_is any status' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any status' -l plain -d 'The text of `wg show`, always'
complete -c nvpn -n '__nvpn_is any status' -l table -d 'The table, even through a pipe'
complete -c nvpn -n '__nvpn_is any status' -l json -d 'JSON, without any secret'
complete -c nvpn -n '__nvpn_is any status' -s w -l watch -d 'The table again and again, every 2 seconds or as given, with rates'
complete -c nvpn -n '__nvpn_is any status' -s v -l verbose -d 'The table with full keys, dropped packets and how packets are moved'
complete -c nvpn -n '__nvpn_is 0 status' -a '(__nvpn_shown)'
complete -c nvpn -n '__nvpn_is 1 status' -a 'public-key private-key listen-port fwmark peers preshared-keys endpoints allowed-ips latest-handshakes transfer persistent-keepalive dump'
complete -c nvpn -n '__nvpn_is any events' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is 0+ events' -a '(__nvpn_interfaces)'
complete -c nvpn -n '__nvpn_is 0 peer' -a add -d 'Add a peer, and print its own configuration'
complete -c nvpn -n '__nvpn_is 0 peer' -a list -d 'List the peers of a tunnel’s file'
complete -c nvpn -n '__nvpn_is 0 peer' -a rm -d 'Remove a peer from the file and the tunnel'
complete -c nvpn -n '__nvpn_is 0 peer' -a qr -d 'Show a configuration as a QR code'
complete -c nvpn -n '__nvpn_is any peer' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any peer add' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any peer add' -s i -l interface -x -a '(__nvpn_tunnels)' -d 'Whose peer; needless with only one tunnel in /etc/nvpn and /etc/wireguard'
complete -c nvpn -n '__nvpn_is any peer add' -l from-pool -d 'A client of the server, for good: for a phone that has WireGuard but not nvpn'
complete -c nvpn -n '__nvpn_is any peer add' -l public-key -x -d 'Its public key, when it has one already'
complete -c nvpn -n '__nvpn_is any peer add' -l psk -d 'Make a preshared key for the two of us as well'
complete -c nvpn -n '__nvpn_is any peer add' -l allowed-ips -x -d 'Its addresses; by default the next free one of each network of the tunnel'
complete -c nvpn -n '__nvpn_is any peer add' -l endpoint -x -d 'Where the peer finds us; with --public-key, where we find the peer'
complete -c nvpn -n '__nvpn_is any peer add' -l keepalive -x -d 'Let who is behind a NAT be heard this often'
complete -c nvpn -n '__nvpn_is any peer add' -l all -d 'All of the peer’s traffic goes through the tunnel, not only its networks’'
complete -c nvpn -n '__nvpn_is any peer add' -l dns -x -d 'The peer’s name servers and search domains while its tunnel is up'
complete -c nvpn -n '__nvpn_is any peer add' -l png -r -F -d 'The peer’s configuration as a QR code, in a new PNG that only you can read'
complete -c nvpn -n '__nvpn_is any peer add' -l svg -r -F -d 'The peer’s configuration as a QR code, in a new SVG that only you can read'
complete -c nvpn -n '__nvpn_is any peer add' -l force -d 'Show the code although standard output is no terminal'
complete -c nvpn -n '__nvpn_is any peer add' -l qr -d 'Show it as a QR code'
complete -c nvpn -n '__nvpn_is any peer add' -s o -l output -r -F -d 'Write it to a new file that only you can read, instead of standard output'
complete -c nvpn -n '__nvpn_is any peer list' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any peer list' -s i -l interface -x -a '(__nvpn_tunnels)' -d 'Whose peer; needless with only one tunnel in /etc/nvpn and /etc/wireguard'
complete -c nvpn -n '__nvpn_is any peer list' -l json -d 'JSON, without any secret'
complete -c nvpn -n '__nvpn_is any peer list' -l names -d 'Names alone, or keys of those that have none'
complete -c nvpn -n '__nvpn_is any peer rm' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any peer rm' -s i -l interface -x -a '(__nvpn_tunnels)' -d 'Whose peer; needless with only one tunnel in /etc/nvpn and /etc/wireguard'
complete -c nvpn -n '__nvpn_is 0 peer rm' -a '(__nvpn_listed peer)'
complete -c nvpn -n '__nvpn_is any peer qr' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any peer qr' -l png -r -F -d 'The configuration as a QR code, in a new PNG that only you can read'
complete -c nvpn -n '__nvpn_is any peer qr' -l svg -r -F -d 'The configuration as a QR code, in a new SVG that only you can read'
complete -c nvpn -n '__nvpn_is any peer qr' -l force -d 'Show the code although standard output is no terminal'
complete -c nvpn -n '__nvpn_is 0 peer qr' -F
complete -c nvpn -n '__nvpn_is any invite' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any invite' -s i -l interface -x -a '(__nvpn_interfaces)' -d 'The server’s interface; needless with only one server on this host'
complete -c nvpn -n '__nvpn_is any invite' -l expires -x -d 'How long it is good: 90s, 15m, 12h, 1d, 2w; by default as the server’s file says'
complete -c nvpn -n '__nvpn_is any invite' -l uses -x -d 'How many clients may join by it; more than one are called NAME, NAME-2 …'
complete -c nvpn -n '__nvpn_is any invite' -l endpoint -x -d 'Where the client finds the server, instead of what its file says; again for more'
complete -c nvpn -n '__nvpn_is any invite' -l qr -d 'Show it as a QR code as well'
complete -c nvpn -n '__nvpn_is any invite' -s o -l output -r -F -d 'Write it to a new file that only you can read, instead of standard output'
complete -c nvpn -n '__nvpn_is any join' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any join' -l name -x -a '(__nvpn_interfaces)' -d 'The interface; by default the first free of nvpn0, nvpn1 …'
complete -c nvpn -n '__nvpn_is any join' -s o -l output -r -F -d 'Write the configuration to this new .toml file, which names the interface'
complete -c nvpn -n '__nvpn_is any join' -l config -r -F -d 'Write the configuration into this directory instead of /etc/nvpn'
complete -c nvpn -n '__nvpn_is any join' -l no-up -d 'Do not bring the tunnel up'
complete -c nvpn -n '__nvpn_is 0 join' -F
complete -c nvpn -n '__nvpn_is 0 client' -a list -d 'List the server’s clients and open invitations'
complete -c nvpn -n '__nvpn_is 0 client' -a revoke -d 'Let a client in no more, or end an invitation'
complete -c nvpn -n '__nvpn_is 0 client' -a rename -d 'Call a client something else'
complete -c nvpn -n '__nvpn_is any client' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any client list' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any client list' -l json -d 'JSON, without any secret'
complete -c nvpn -n '__nvpn_is any client list' -l names -d 'Names of clients alone, or keys without a name'
complete -c nvpn -n '__nvpn_is any client list' -s i -l interface -x -a '(__nvpn_interfaces)' -d 'The server’s interface; needless with only one server on this host'
complete -c nvpn -n '__nvpn_is any client revoke' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any client revoke' -s i -l interface -x -a '(__nvpn_interfaces)' -d 'The server’s interface; needless with only one server on this host'
complete -c nvpn -n '__nvpn_is 0 client revoke' -a '(__nvpn_listed client)'
complete -c nvpn -n '__nvpn_is any client rename' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any client rename' -s i -l interface -x -a '(__nvpn_interfaces)' -d 'The server’s interface; needless with only one server on this host'
complete -c nvpn -n '__nvpn_is 0 client rename' -a '(__nvpn_listed client)'
complete -c nvpn -n '__nvpn_is any genkey' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any genkey' -s o -l output -r -F -d 'Write to a new file that only you can read, instead of standard output'
complete -c nvpn -n '__nvpn_is any genkey' -l pair -d 'Print the public key too: below the private key, or alone with -o'
complete -c nvpn -n '__nvpn_is any genpsk' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any genpsk' -s o -l output -r -F -d 'Write to a new file that only you can read, instead of standard output'
complete -c nvpn -n '__nvpn_is any pubkey' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any import' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any import' -l strict -d 'Exit status 1 if there is a key that nvpn does not know'
complete -c nvpn -n '__nvpn_is any import' -s o -l output -r -F -d 'Write to a new file that only you can read, instead of standard output'
complete -c nvpn -n '__nvpn_is 0 import' -F
complete -c nvpn -n '__nvpn_is any export' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any export' -l keep-files -d 'Leave keys in their files, and have a PostUp command fetch them'
complete -c nvpn -n '__nvpn_is any export' -s o -l output -r -F -d 'Write to a new file that only you can read, instead of standard output'
complete -c nvpn -n '__nvpn_is 0 export' -F
complete -c nvpn -n '__nvpn_is any check' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is 0+ check' -a '(__nvpn_configs)'
complete -c nvpn -n '__nvpn_is any demo' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any demo' -l seconds -x -d 'How long to transfer in each direction (default: 2)'
complete -c nvpn -n '__nvpn_is any demo' -l plain -d 'Lines instead of a live display, as through a pipe'
complete -c nvpn -n '__nvpn_is any device' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is any device' -s f -l foreground -d 'Stay in front and log to standard error'
complete -c nvpn -n '__nvpn_is any device' -l log-level -x -a 'debug info warning error' -d 'debug, info, warning or error (the default; or as $LOG_LEVEL says)'
complete -c nvpn -n '__nvpn_is any set' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is 0 set' -a '(__nvpn_interfaces)'
complete -c nvpn -n '__nvpn_is 1+ set' -a '(__nvpn_settings)'
complete -c nvpn -n '__nvpn_is any setconf' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is 0 setconf' -a '(__nvpn_interfaces)'
complete -c nvpn -n '__nvpn_is 1 setconf' -a '(__nvpn_configs)'
complete -c nvpn -n '__nvpn_is any addconf' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is 0 addconf' -a '(__nvpn_interfaces)'
complete -c nvpn -n '__nvpn_is 1 addconf' -a '(__nvpn_configs)'
complete -c nvpn -n '__nvpn_is any syncconf' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is 0 syncconf' -a '(__nvpn_interfaces)'
complete -c nvpn -n '__nvpn_is 1 syncconf' -a '(__nvpn_configs)'
complete -c nvpn -n '__nvpn_is any showconf' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is 0 showconf' -a '(__nvpn_interfaces)'
complete -c nvpn -n '__nvpn_is any save' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is 0 save' -a '(__nvpn_tunnels)'
complete -c nvpn -n '__nvpn_is any strip' -s h -l help -d 'Show this help'
complete -c nvpn -n '__nvpn_is 0 strip' -a '(__nvpn_configs)'
complete -c nvpn -n '__nvpn_is 0 help' -a 'up down reload show status events peer invite join client genkey genpsk pubkey import export check demo device set setconf addconf syncconf showconf save strip help'
