# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_c1m_global_optspecs
    string join \n h/help V/version
end

function __fish_c1m_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_c1m_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_c1m_using_subcommand
    set -l cmd (__fish_c1m_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c c1m -n "__fish_c1m_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c c1m -n "__fish_c1m_needs_command" -s V -l version -d 'Print version'
complete -c c1m -n "__fish_c1m_needs_command" -f -a "server" -d 'Hold connections and serve them'
complete -c c1m -n "__fish_c1m_needs_command" -f -a "client" -d 'Open, prove and measure connections'
complete -c c1m -n "__fish_c1m_needs_command" -f -a "storm" -d 'Disturb a server that holds connections, and measure how the connections that the storm spares fare'
complete -c c1m -n "__fish_c1m_needs_command" -f -a "fanout" -d 'Publish to many subscribers, and prove that each got every publication exactly once'
complete -c c1m -n "__fish_c1m_needs_command" -f -a "demo" -d 'Server and client on this machine: a million connections, a report'
complete -c c1m -n "__fish_c1m_needs_command" -f -a "doctor" -d 'Judge this host against a goal, wall by wall; changes nothing. Exits with 1 if a wall blocks the goal'
complete -c c1m -n "__fish_c1m_needs_command" -f -a "tune" -d 'Show the settings that this host needs for a goal, apply them, and restore the old ones'
complete -c c1m -n "__fish_c1m_needs_command" -f -a "report" -d 'Read results that earlier runs wrote'
complete -c c1m -n "__fish_c1m_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c c1m -n "__fish_c1m_using_subcommand server" -l cores -d 'Use the first N cores that this process may run on; all by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l core-list -d 'Use exactly these cores, such as 0,2-3' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l bind -d 'Address to listen on. `::` takes IPv4 and IPv6, for about 200 bytes more of kernel memory per connection. A link-local address needs its interface, such as fe80::1%eth0' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l port -d 'First port' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l ports -d 'Number of ports from --port on' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l port-sharing -d 'Assignment of ports to shards: `subset` gives each port to one shard; `all` makes every shard listen on every port, for clients that use a single port' -r -f -a "subset\t''
all\t''"
complete -c c1m -n "__fish_c1m_using_subcommand server" -l max-connections -d 'The most connections held. A further connection waits 0.1 s for a place, and is then reset and counted as refused' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l backlog -d 'Accept queue of each port; the kernel caps it at net.core.somaxconn, which is the default' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l service -d 'What to do with what comes: `echo` sends it back; `sink` counts and discards it; `push` sends what a publisher says to all subscribers (docs/guide/services.md)' -r -f -a "echo\t''
sink\t''
push\t''"
complete -c c1m -n "__fish_c1m_using_subcommand server" -l protocol -d 'What is spoken on the connections: `raw` bytes; `websocket` messages, after an upgrade at any path; `http` requests on kept connections. With the last two, GET /healthz answers 200' -r -f -a "raw\t''
websocket\t''
http\t''"
complete -c c1m -n "__fish_c1m_using_subcommand server" -l max-message -d 'Longest message of `websocket`, body of `http`, or publication of `push`, 1 to 1 GiB. A longer one is refused (1009, or 413), and its connection closed; 65536 by default. --max-pending is raised to hold a message' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l max-pending -d 'Bytes kept for a peer that does not read, 4096 at least. The connection is reset beyond them' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l park -d 'How idle connections wait. With `filter` they wait behind a filter on their sockets, which takes no memory per connection, and needs CAP_BPF, CAP_PERFMON and CAP_CHOWN. With `poll` each waits in a poll of its ring, which takes 256 bytes of the kernel. `auto` uses the filter where it is allowed. Sockets behind the filter have owners from 1073741824 on (ss -e). If such a connection ends without a segment, the server notices up to 10 minutes later, with --keepalive up to its TIME later' -r -f -a "auto\t''
poll\t''
filter\t''"
complete -c c1m -n "__fish_c1m_using_subcommand server" -l memory-reserve -d 'Memory to leave to the rest of the host, such as 64MiB or 2%. While the host or a cgroup has less left, new connections are reset at once and counted as refused; with half of it left, the server stops listening. 0 disables the check; the default is 24 MiB and 1 %' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l drain-timeout -d 'How long closing all connections takes at SIGTERM. They are closed evenly, so that no core is busy all the time here or at the peers; a few connections take less time' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l idle-timeout -d 'Close connections whose peer was silent for TIME, 1s or more. A sweep finds them up to 12 s later, as no connection has a timer' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l hibernate -d 'Put connections to sleep that were silent for TIME, such as 30s: they have no socket until their next segment, or until something is to be sent, and take some 52 bytes each. Needs CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and CAP_NET_RAW. Take 50 ms or more: before that an acknowledgement may be outstanding, and no connection falls asleep' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l awake -d 'At most N connections have a socket at once; each core may always have one. By default as many as memory allows, and before Linux 6.8 file descriptors, at most 262,144' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l accept-rate -d 'Accept at most N connections per second; the others wait in the accept queue' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l keepalive -d 'Probe a peer that was silent for TIME, up to 3 times, TIME apart; a connection whose peer answers none of the probes is closed. In whole seconds. The kernel sends the probes, so they cost c1m nothing' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l tls-cert -d 'Speak TLS on every port, with the certificates in FILE (PEM, the server\'s own first). A connection takes 80 bytes more for it. Repeat it and --tls-key for further names: a client that names a server (SNI) gets the first certificate for that name, any other client the first of all. SIGHUP then reads the files again, without dropping anyone' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand server" -l tls-key -d 'The private key of each --tls-cert, in the same order (PEM, without a password)' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand server" -l tls-min -d 'The lowest version of TLS. With 1.2 clients that do not speak 1.3 are served too, each for 112 bytes instead of 80, with the suites that are still safe: ECDHE with AES-GCM or ChaCha20-Poly1305' -r -f -a "1.3\t''
1.2\t''"
complete -c c1m -n "__fish_c1m_using_subcommand server" -l alpn -d 'Protocols to negotiate, separated by commas, the best first, such as http/1.1 (ALPN)' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l handshakes -d 'TLS handshakes at once at most, some 12 kB each; further clients wait. By default as many as a sixteenth of the memory left has room for, between 64 and 2,048' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l incomplete-records -d 'Bytes kept at most of TLS records that have come in part, up to 16.6 kB for each connection that is sending one. A connection that would need more is closed. By default a sixteenth of the memory left, and 16 MiB at least' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l handshake-timeout -d 'The longest time from a connection\'s accept to its first bytes, from these to the end of its TLS handshake, and from the beginning of a record until it is whole; 10s by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l takeover -d 'Take the place of the server that listens at the Unix socket PATH, without a connection closed, over TLS and in the middle of messages too; if none does, start afresh. Then listen there for a later server. Where NOTIFY_SOCKET is set, connections of raw bytes that sleep survive a kill: what is kept of them is left with the service manager' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand server" -l stats-interval -d 'Interval between lines of figures, 1ms or more' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l json -d 'Write the result to FILE (- is standard output) and print events as JSON lines' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand server" -l metrics -d 'Serve the shards\' counters to Prometheus at http://ADDR/metrics; port 0 takes a free port. Everyone who can reach the address can read them, so choose an address such as 127.0.0.1:9187 or an internal one' -r
complete -c c1m -n "__fish_c1m_using_subcommand server" -l until-stdin-closes -d 'Stop when standard input ends, so that a parent process never leaves a server behind'
complete -c c1m -n "__fish_c1m_using_subcommand server" -s v -l verbose -d 'Print a line per shard too'
complete -c c1m -n "__fish_c1m_using_subcommand server" -s q -l quiet -d 'Print no lines of figures: only warnings and the result'
complete -c c1m -n "__fish_c1m_using_subcommand server" -s h -l help -d 'Print help'
complete -c c1m -n "__fish_c1m_using_subcommand client" -l connections -d 'Connections to open: one per (target, port) in turn' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l rate -d 'Start N connections per second, evenly; latency then counts from the intended start' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l interval -d 'Send a message on each connection every TIME, spread evenly: while `client` holds them, where the default is never, or from before a storm until after it, where it is 20,000 messages a second in all' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l target-ip -d 'Addresses of the server, separated by commas, each once; a link-local one with its interface, such as fe80::1%eth0' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l port -d 'First port' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l ports -d 'Number of ports from --port on' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l target -d 'The server by its name, with its ports, such as example.org:8888-8987, or a URL, such as ws://example.org:8888-8987/path. All addresses of the name are used, IPv4 and IPv6. The scheme of a URL (ws, wss, mqtt, mqtts, http, https or nats) chooses --protocol, and its path is --path' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l target-addresses -d 'The addresses of --target, which then is not resolved. `storm killed` passes them to the victims\' process' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l cores -d 'Use the first N cores this process may run on; all by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l source-ip -d 'Addresses to connect from, separated by commas, single or as a block such as 10.0.0.0/28' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l concurrency -d 'Connects, and messages of an audit, in flight at once' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l connect-timeout -d 'How long a connect may take, 1ms or more' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l reply-timeout -d 'How long an answer may take, 1ms or more: of a long poll, longer than the server holds it' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l keepalive-interval -d 'Send a sign of life on each connection every TIME, 1s or more, spread evenly, whatever else happens: a Ping of WebSocket, a PINGREQ of MQTT, a PING of NATS, a request of HTTP, a message of the other protocols. Take less than the time after which the server, or a middlebox, closes silent connections. None is sent by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l protocol -d 'What is said on the connections: `raw`, the default, for servers that send back every byte; `send-expect`, for any server of which one message and its answer can be typed (--send and --expect); `websocket`; `http`; `mqtt`, version 3.1.1 or 5; `nats`; `push`, the frames of `c1m server --service push` over plain bytes, which is also what `raw` means to `fanout`' -r -f -a "raw\t''
send-expect\t''
websocket\t''
http\t''
mqtt\t''
nats\t''
push\t''"
complete -c c1m -n "__fish_c1m_using_subcommand client" -l hello -d 'raw: sent on each new connection, its number in place of {}; "Hello Server: client --> {}" by default. Empty sends nothing' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l payload -d 'raw, websocket, mqtt, nats: bytes of a message of --interval, and of a publication of `fanout`, which has 64 to 60000; 64 by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l send -d 'send-expect: the message, sent on each new connection, in audits and by --interval. Within braces, n stands for the connection\'s number, round for the round, and token for 16 lower-case hexadecimal digits that belong to both; \\r \\n \\t \\\\ \\xHH are bytes; {{ and }} are braces' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l expect -d 'send-expect: its answer, in the same way. * stands for anything up to what follows it, at the end for anything up to the next message; \\* is a star' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l greeting -d 'send-expect: what the server says first, as --expect; nothing is sent before that' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l goodbye -d 'send-expect: sent before the connections are closed in the end, as --send; no answer is awaited' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l path -d 'websocket, http: the path that is asked for, with its query, as --send; / by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l header -d 'websocket, http: a further field of the request, its value as --send; may be given several times' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l subprotocol -d 'websocket: the subprotocols to offer, separated by commas' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l message-type -d 'websocket: the type of our messages, `text` (the default) or `binary`' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l proof -d 'What proves a connection. websocket: `ping` (the default), a Pong with the token, which every server and gateway sends; `echo`, the service behind it sends a message back. http: `status` (the default); `token`, the body of the answer has the {token} of the request in it. mqtt, nats: `publish` (the default), each message goes to the connection\'s own topic and must come back; `ping`, a PINGREQ or PING is answered' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l method -d 'http: the method, `GET` (the default) or `POST`' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l body -d 'http: the body of a POST, as --send' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l status -d 'http: the status that each answer must have; 200 by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l subscribe -d 'What each connection says to subscribe; may be given more than once. websocket: a text that it sends after the handshake. mqtt, nats: a topic filter, or a subject, that it subscribes to beside its own' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l user -d 'mqtt, nats: the user\'s name' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l password -d 'mqtt, nats: the user\'s password; without --user the token of nats. Other users of this host can see it in the list of processes' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l topic -d 'mqtt, nats: the connection\'s own topic, or subject; by default `c1m/`, or `c1m.`, and the connection\'s number' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l mqtt-version -d 'mqtt: the version, 5 by default' -r -f -a "3.1.1\t''
5\t''"
complete -c c1m -n "__fish_c1m_using_subcommand client" -l client-id -d 'mqtt: the client identifier; by default `c1m` and the connection\'s number. Empty: the server chooses one' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l session -d 'mqtt: `clean`, the default, begins a session with each connection; `keep` goes on with the one that is there, or begins one; `resume` must find one with its subscriptions, and fails the connection otherwise' -r -f -a "clean\t''
keep\t''
resume\t''"
complete -c c1m -n "__fish_c1m_using_subcommand client" -l session-expiry -d 'mqtt 5: how long a session outlives its connection; 1h by default with --session keep and resume' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l mqtt-keepalive -d 'mqtt: how long the server may let a connection be silent. A PINGREQ goes out every half of it, unless --keepalive-interval says otherwise. By default the server waits for ever' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l will-topic -d 'mqtt: where the server publishes the will of a connection that ends without a goodbye' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l will-message -d 'mqtt: the will' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l topics -d 'mqtt: makes N topics of each --subscribe with {topic} in it, which stands for 1 to N' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l qos -d 'mqtt: quality of service of messages, subscriptions and wills, 0 or 1; 0 by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l first-number -d 'Number of the first connection. Where a protocol uses the numbers, as in the keys of a store, give each client machine numbers of its own' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l sni -d 'The name that the server\'s certificate must have, and that is sent to it (SNI). By default it is the name in --target; else the address that the connection goes to, which is not sent' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l alpn -d 'Protocols to offer, separated by commas, the best first, such as http/1.1 (ALPN)' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l ca -d 'Trust the certificate authorities in FILE (PEM); those that this host trusts by default' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand client" -l cert -d 'Certificates of the client, for servers that ask for one (PEM, the client\'s own first)' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand client" -l key -d 'The private key of --cert (PEM, without a password)' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand client" -l tls-min -d 'The lowest version of TLS. With 1.2 a server that does not speak 1.3 will do too; such a connection takes 112 bytes instead of 80' -r -f -a "1.3\t''
1.2\t''"
complete -c c1m -n "__fish_c1m_using_subcommand client" -l handshake-timeout -d 'How long a TLS handshake may take, and an incomplete record to become whole; 10s by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l hibernate -d 'Put connections to sleep that were silent for TIME, such as 30s: they have no socket on this host until their next message, or one of the server\'s. Not for `fanout`. Needs CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and CAP_NET_RAW' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l awake -d 'At most N connections have a socket at once; each core may always have one. By default as many as memory allows, and before Linux 6.8 file descriptors, at most 262,144' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l close-rate -d 'Close N connections per second, evenly; as fast as it goes by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l server-pid -d 'The server\'s process, if it is on this host: its memory and processor time are reported' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l source-port-seed -d 'Take source ports as every client with this seed does, each from its --first-number on, so that no two of them try the same port. `storm killed` passes it to the victims\' process' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l json -d 'Write the result to FILE; - is standard output, where `client`, `storm` and `fanout` then write events as JSON lines first' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand client" -l report -d 'Write one HTML file that shows the run: connections, rates and latencies over time' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand client" -l hlog -d 'Write HdrHistogram\'s interval log: one interval per second, with a tag for each measure and shard' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand client" -l hold -d 'How long to hold the connections between the two audits' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l audit -d 'What proves a connection live: `echo`, it gets the answer that --protocol expects, with `raw` exactly what it sent; `state`, neither FIN nor RST came (for servers that answer nothing); `off`, nothing' -r -f -a "echo\t''
state\t''
off\t''"
complete -c c1m -n "__fish_c1m_using_subcommand client" -l audit-sample -d 'Ask only N connections in each audit, 1 or more, drawn at random; every one has the same chance. Only with --audit echo' -r
complete -c c1m -n "__fish_c1m_using_subcommand client" -l close -d 'How to close: `fin` in order, which leaves each source port in TIME_WAIT for a minute, with 256 bytes of kernel memory, up to net.ipv4.tcp_max_tw_buckets of them; `rst` at once, which leaves nothing' -r -f -a "fin\t''
rst\t''"
complete -c c1m -n "__fish_c1m_using_subcommand client" -l histogram -d 'Write the connect latencies as a percentile file for HdrHistogram\'s plotter' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand client" -l tls -d 'Speak TLS on every connection, as the URLs wss, https and mqtts of --target say too. Full handshakes and resumed ones are told apart in the report'
complete -c c1m -n "__fish_c1m_using_subcommand client" -l insecure -d 'Trust any server: neither its certificate nor its name is looked at'
complete -c c1m -n "__fish_c1m_using_subcommand client" -l no-resumption -d 'Make every TLS handshake a full one. By default sessions are resumed where the server gives tickets'
complete -c c1m -n "__fish_c1m_using_subcommand client" -l resume -d 'Resume sessions, as is done without it too, and fail if no handshake of the run resumed one: the server gives no tickets, or takes none'
complete -c c1m -n "__fish_c1m_using_subcommand client" -s q -l quiet -d 'Show no progress: only warnings and the result'
complete -c c1m -n "__fish_c1m_using_subcommand client" -l steer -d 'Hold, and obey lines on standard input: `audit` audits, `report` tells what was measured so far, `close` or the end of the input closes. Lines that come during the ramp are obeyed after it'
complete -c c1m -n "__fish_c1m_using_subcommand client" -s h -l help -d 'Print help'
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l connections -d 'Connections to open: one per (target, port) in turn' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l rate -d 'Start N connections per second, evenly; latency then counts from the intended start' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l interval -d 'Send a message on each connection every TIME, spread evenly: while `client` holds them, where the default is never, or from before a storm until after it, where it is 20,000 messages a second in all' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l target-ip -d 'Addresses of the server, separated by commas, each once; a link-local one with its interface, such as fe80::1%eth0' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l port -d 'First port' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l ports -d 'Number of ports from --port on' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l target -d 'The server by its name, with its ports, such as example.org:8888-8987, or a URL, such as ws://example.org:8888-8987/path. All addresses of the name are used, IPv4 and IPv6. The scheme of a URL (ws, wss, mqtt, mqtts, http, https or nats) chooses --protocol, and its path is --path' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l target-addresses -d 'The addresses of --target, which then is not resolved. `storm killed` passes them to the victims\' process' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l cores -d 'Use the first N cores this process may run on; all by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l source-ip -d 'Addresses to connect from, separated by commas, single or as a block such as 10.0.0.0/28' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l concurrency -d 'Connects, and messages of an audit, in flight at once' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l connect-timeout -d 'How long a connect may take, 1ms or more' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l reply-timeout -d 'How long an answer may take, 1ms or more: of a long poll, longer than the server holds it' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l keepalive-interval -d 'Send a sign of life on each connection every TIME, 1s or more, spread evenly, whatever else happens: a Ping of WebSocket, a PINGREQ of MQTT, a PING of NATS, a request of HTTP, a message of the other protocols. Take less than the time after which the server, or a middlebox, closes silent connections. None is sent by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l protocol -d 'What is said on the connections: `raw`, the default, for servers that send back every byte; `send-expect`, for any server of which one message and its answer can be typed (--send and --expect); `websocket`; `http`; `mqtt`, version 3.1.1 or 5; `nats`; `push`, the frames of `c1m server --service push` over plain bytes, which is also what `raw` means to `fanout`' -r -f -a "raw\t''
send-expect\t''
websocket\t''
http\t''
mqtt\t''
nats\t''
push\t''"
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l hello -d 'raw: sent on each new connection, its number in place of {}; "Hello Server: client --> {}" by default. Empty sends nothing' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l payload -d 'raw, websocket, mqtt, nats: bytes of a message of --interval, and of a publication of `fanout`, which has 64 to 60000; 64 by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l send -d 'send-expect: the message, sent on each new connection, in audits and by --interval. Within braces, n stands for the connection\'s number, round for the round, and token for 16 lower-case hexadecimal digits that belong to both; \\r \\n \\t \\\\ \\xHH are bytes; {{ and }} are braces' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l expect -d 'send-expect: its answer, in the same way. * stands for anything up to what follows it, at the end for anything up to the next message; \\* is a star' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l greeting -d 'send-expect: what the server says first, as --expect; nothing is sent before that' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l goodbye -d 'send-expect: sent before the connections are closed in the end, as --send; no answer is awaited' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l path -d 'websocket, http: the path that is asked for, with its query, as --send; / by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l header -d 'websocket, http: a further field of the request, its value as --send; may be given several times' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l subprotocol -d 'websocket: the subprotocols to offer, separated by commas' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l message-type -d 'websocket: the type of our messages, `text` (the default) or `binary`' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l proof -d 'What proves a connection. websocket: `ping` (the default), a Pong with the token, which every server and gateway sends; `echo`, the service behind it sends a message back. http: `status` (the default); `token`, the body of the answer has the {token} of the request in it. mqtt, nats: `publish` (the default), each message goes to the connection\'s own topic and must come back; `ping`, a PINGREQ or PING is answered' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l method -d 'http: the method, `GET` (the default) or `POST`' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l body -d 'http: the body of a POST, as --send' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l status -d 'http: the status that each answer must have; 200 by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l subscribe -d 'What each connection says to subscribe; may be given more than once. websocket: a text that it sends after the handshake. mqtt, nats: a topic filter, or a subject, that it subscribes to beside its own' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l user -d 'mqtt, nats: the user\'s name' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l password -d 'mqtt, nats: the user\'s password; without --user the token of nats. Other users of this host can see it in the list of processes' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l topic -d 'mqtt, nats: the connection\'s own topic, or subject; by default `c1m/`, or `c1m.`, and the connection\'s number' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l mqtt-version -d 'mqtt: the version, 5 by default' -r -f -a "3.1.1\t''
5\t''"
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l client-id -d 'mqtt: the client identifier; by default `c1m` and the connection\'s number. Empty: the server chooses one' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l session -d 'mqtt: `clean`, the default, begins a session with each connection; `keep` goes on with the one that is there, or begins one; `resume` must find one with its subscriptions, and fails the connection otherwise' -r -f -a "clean\t''
keep\t''
resume\t''"
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l session-expiry -d 'mqtt 5: how long a session outlives its connection; 1h by default with --session keep and resume' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l mqtt-keepalive -d 'mqtt: how long the server may let a connection be silent. A PINGREQ goes out every half of it, unless --keepalive-interval says otherwise. By default the server waits for ever' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l will-topic -d 'mqtt: where the server publishes the will of a connection that ends without a goodbye' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l will-message -d 'mqtt: the will' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l topics -d 'mqtt: makes N topics of each --subscribe with {topic} in it, which stands for 1 to N' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l qos -d 'mqtt: quality of service of messages, subscriptions and wills, 0 or 1; 0 by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l first-number -d 'Number of the first connection. Where a protocol uses the numbers, as in the keys of a store, give each client machine numbers of its own' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l sni -d 'The name that the server\'s certificate must have, and that is sent to it (SNI). By default it is the name in --target; else the address that the connection goes to, which is not sent' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l alpn -d 'Protocols to offer, separated by commas, the best first, such as http/1.1 (ALPN)' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l ca -d 'Trust the certificate authorities in FILE (PEM); those that this host trusts by default' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l cert -d 'Certificates of the client, for servers that ask for one (PEM, the client\'s own first)' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l key -d 'The private key of --cert (PEM, without a password)' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l tls-min -d 'The lowest version of TLS. With 1.2 a server that does not speak 1.3 will do too; such a connection takes 112 bytes instead of 80' -r -f -a "1.3\t''
1.2\t''"
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l handshake-timeout -d 'How long a TLS handshake may take, and an incomplete record to become whole; 10s by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l hibernate -d 'Put connections to sleep that were silent for TIME, such as 30s: they have no socket on this host until their next message, or one of the server\'s. Not for `fanout`. Needs CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and CAP_NET_RAW' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l awake -d 'At most N connections have a socket at once; each core may always have one. By default as many as memory allows, and before Linux 6.8 file descriptors, at most 262,144' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l close-rate -d 'Close N connections per second, evenly; as fast as it goes by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l server-pid -d 'The server\'s process, if it is on this host: its memory and processor time are reported' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l source-port-seed -d 'Take source ports as every client with this seed does, each from its --first-number on, so that no two of them try the same port. `storm killed` passes it to the victims\' process' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l json -d 'Write the result to FILE; - is standard output, where `client`, `storm` and `fanout` then write events as JSON lines first' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l report -d 'Write one HTML file that shows the run: connections, rates and latencies over time' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l hlog -d 'Write HdrHistogram\'s interval log: one interval per second, with a tag for each measure and shard' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l share -d 'How many of the connections are the storm\'s victims, in percent or as a number: at least one, and not all; 34% by default. `churn` has no victims' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l for -d 'How long `churn`, `slow-readers`, `silent` and `killed` last; 10 s by default. The other storms last until their work is done' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l calm -d 'How long to send messages before the storm' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l after -d 'How long to send messages after the storm' -r
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l tls -d 'Speak TLS on every connection, as the URLs wss, https and mqtts of --target say too. Full handshakes and resumed ones are told apart in the report'
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l insecure -d 'Trust any server: neither its certificate nor its name is looked at'
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l no-resumption -d 'Make every TLS handshake a full one. By default sessions are resumed where the server gives tickets'
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l resume -d 'Resume sessions, as is done without it too, and fail if no handshake of the run resumed one: the server gives no tickets, or takes none'
complete -c c1m -n "__fish_c1m_using_subcommand storm" -s q -l quiet -d 'Show no progress: only warnings and the result'
complete -c c1m -n "__fish_c1m_using_subcommand storm" -l fin -d 'Close by FIN rather than RST, in the storm and at the end. The side that closes first by FIN keeps the source port in TIME_WAIT for a minute, with 256 bytes of kernel memory, up to net.ipv4.tcp_max_tw_buckets of them. Many such closes leave few ports to dial from'
complete -c c1m -n "__fish_c1m_using_subcommand storm" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l subscribers -d 'Connections that subscribe' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l publishers -d 'Connections that publish, in turn. They do not subscribe' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l rate -d 'Publications per second in all, evenly' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l for -d 'How long to publish' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l wait -d 'The longest that a receipt may take. A subscriber that has not got the publication by then has missed it' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l connect-rate -d 'Start N connections per second, evenly; latency of connects then counts from the intended start' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l publish -d 'What a publisher says. websocket: a text with {payload} in it, which is the whole text by default. mqtt, nats: the topic, or subject, that it publishes to; the subscribers subscribe to it too, unless --subscribe says otherwise' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l publish-path -d 'websocket: the path that publishers ask for; /publish by default, or with --publish that of the subscribers' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l target-ip -d 'Addresses of the server, separated by commas, each once; a link-local one with its interface, such as fe80::1%eth0' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l port -d 'First port' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l ports -d 'Number of ports from --port on' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l target -d 'The server by its name, with its ports, such as example.org:8888-8987, or a URL, such as ws://example.org:8888-8987/path. All addresses of the name are used, IPv4 and IPv6. The scheme of a URL (ws, wss, mqtt, mqtts, http, https or nats) chooses --protocol, and its path is --path' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l target-addresses -d 'The addresses of --target, which then is not resolved. `storm killed` passes them to the victims\' process' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l cores -d 'Use the first N cores this process may run on; all by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l source-ip -d 'Addresses to connect from, separated by commas, single or as a block such as 10.0.0.0/28' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l concurrency -d 'Connects, and messages of an audit, in flight at once' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l connect-timeout -d 'How long a connect may take, 1ms or more' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l reply-timeout -d 'How long an answer may take, 1ms or more: of a long poll, longer than the server holds it' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l keepalive-interval -d 'Send a sign of life on each connection every TIME, 1s or more, spread evenly, whatever else happens: a Ping of WebSocket, a PINGREQ of MQTT, a PING of NATS, a request of HTTP, a message of the other protocols. Take less than the time after which the server, or a middlebox, closes silent connections. None is sent by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l protocol -d 'What is said on the connections: `raw`, the default, for servers that send back every byte; `send-expect`, for any server of which one message and its answer can be typed (--send and --expect); `websocket`; `http`; `mqtt`, version 3.1.1 or 5; `nats`; `push`, the frames of `c1m server --service push` over plain bytes, which is also what `raw` means to `fanout`' -r -f -a "raw\t''
send-expect\t''
websocket\t''
http\t''
mqtt\t''
nats\t''
push\t''"
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l hello -d 'raw: sent on each new connection, its number in place of {}; "Hello Server: client --> {}" by default. Empty sends nothing' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l payload -d 'raw, websocket, mqtt, nats: bytes of a message of --interval, and of a publication of `fanout`, which has 64 to 60000; 64 by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l send -d 'send-expect: the message, sent on each new connection, in audits and by --interval. Within braces, n stands for the connection\'s number, round for the round, and token for 16 lower-case hexadecimal digits that belong to both; \\r \\n \\t \\\\ \\xHH are bytes; {{ and }} are braces' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l expect -d 'send-expect: its answer, in the same way. * stands for anything up to what follows it, at the end for anything up to the next message; \\* is a star' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l greeting -d 'send-expect: what the server says first, as --expect; nothing is sent before that' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l goodbye -d 'send-expect: sent before the connections are closed in the end, as --send; no answer is awaited' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l path -d 'websocket, http: the path that is asked for, with its query, as --send; / by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l header -d 'websocket, http: a further field of the request, its value as --send; may be given several times' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l subprotocol -d 'websocket: the subprotocols to offer, separated by commas' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l message-type -d 'websocket: the type of our messages, `text` (the default) or `binary`' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l proof -d 'What proves a connection. websocket: `ping` (the default), a Pong with the token, which every server and gateway sends; `echo`, the service behind it sends a message back. http: `status` (the default); `token`, the body of the answer has the {token} of the request in it. mqtt, nats: `publish` (the default), each message goes to the connection\'s own topic and must come back; `ping`, a PINGREQ or PING is answered' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l method -d 'http: the method, `GET` (the default) or `POST`' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l body -d 'http: the body of a POST, as --send' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l status -d 'http: the status that each answer must have; 200 by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l subscribe -d 'What each connection says to subscribe; may be given more than once. websocket: a text that it sends after the handshake. mqtt, nats: a topic filter, or a subject, that it subscribes to beside its own' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l user -d 'mqtt, nats: the user\'s name' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l password -d 'mqtt, nats: the user\'s password; without --user the token of nats. Other users of this host can see it in the list of processes' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l topic -d 'mqtt, nats: the connection\'s own topic, or subject; by default `c1m/`, or `c1m.`, and the connection\'s number' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l mqtt-version -d 'mqtt: the version, 5 by default' -r -f -a "3.1.1\t''
5\t''"
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l client-id -d 'mqtt: the client identifier; by default `c1m` and the connection\'s number. Empty: the server chooses one' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l session -d 'mqtt: `clean`, the default, begins a session with each connection; `keep` goes on with the one that is there, or begins one; `resume` must find one with its subscriptions, and fails the connection otherwise' -r -f -a "clean\t''
keep\t''
resume\t''"
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l session-expiry -d 'mqtt 5: how long a session outlives its connection; 1h by default with --session keep and resume' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l mqtt-keepalive -d 'mqtt: how long the server may let a connection be silent. A PINGREQ goes out every half of it, unless --keepalive-interval says otherwise. By default the server waits for ever' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l will-topic -d 'mqtt: where the server publishes the will of a connection that ends without a goodbye' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l will-message -d 'mqtt: the will' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l topics -d 'mqtt: makes N topics of each --subscribe with {topic} in it, which stands for 1 to N' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l qos -d 'mqtt: quality of service of messages, subscriptions and wills, 0 or 1; 0 by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l first-number -d 'Number of the first connection. Where a protocol uses the numbers, as in the keys of a store, give each client machine numbers of its own' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l sni -d 'The name that the server\'s certificate must have, and that is sent to it (SNI). By default it is the name in --target; else the address that the connection goes to, which is not sent' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l alpn -d 'Protocols to offer, separated by commas, the best first, such as http/1.1 (ALPN)' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l ca -d 'Trust the certificate authorities in FILE (PEM); those that this host trusts by default' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l cert -d 'Certificates of the client, for servers that ask for one (PEM, the client\'s own first)' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l key -d 'The private key of --cert (PEM, without a password)' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l tls-min -d 'The lowest version of TLS. With 1.2 a server that does not speak 1.3 will do too; such a connection takes 112 bytes instead of 80' -r -f -a "1.3\t''
1.2\t''"
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l handshake-timeout -d 'How long a TLS handshake may take, and an incomplete record to become whole; 10s by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l hibernate -d 'Put connections to sleep that were silent for TIME, such as 30s: they have no socket on this host until their next message, or one of the server\'s. Not for `fanout`. Needs CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and CAP_NET_RAW' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l awake -d 'At most N connections have a socket at once; each core may always have one. By default as many as memory allows, and before Linux 6.8 file descriptors, at most 262,144' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l close-rate -d 'Close N connections per second, evenly; as fast as it goes by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l server-pid -d 'The server\'s process, if it is on this host: its memory and processor time are reported' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l source-port-seed -d 'Take source ports as every client with this seed does, each from its --first-number on, so that no two of them try the same port. `storm killed` passes it to the victims\' process' -r
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l json -d 'Write the result to FILE; - is standard output, where `client`, `storm` and `fanout` then write events as JSON lines first' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l report -d 'Write one HTML file that shows the run: connections, rates and latencies over time' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l hlog -d 'Write HdrHistogram\'s interval log: one interval per second, with a tag for each measure and shard' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l fin -d 'Close by FIN rather than RST at the end. The side that closes first by FIN keeps the source port in TIME_WAIT for a minute'
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l tls -d 'Speak TLS on every connection, as the URLs wss, https and mqtts of --target say too. Full handshakes and resumed ones are told apart in the report'
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l insecure -d 'Trust any server: neither its certificate nor its name is looked at'
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l no-resumption -d 'Make every TLS handshake a full one. By default sessions are resumed where the server gives tickets'
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -l resume -d 'Resume sessions, as is done without it too, and fail if no handshake of the run resumed one: the server gives no tickets, or takes none'
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -s q -l quiet -d 'Show no progress: only warnings and the result'
complete -c c1m -n "__fish_c1m_using_subcommand fanout" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c c1m -n "__fish_c1m_using_subcommand demo" -l connections -d 'Connections to open; as many as this host holds, if it holds fewer' -r
complete -c c1m -n "__fish_c1m_using_subcommand demo" -l cores -d 'Use the first N cores for the server and for the client; all by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand demo" -l port -d 'First port' -r
complete -c c1m -n "__fish_c1m_using_subcommand demo" -l ports -d 'Number of ports from --port on' -r
complete -c c1m -n "__fish_c1m_using_subcommand demo" -l protocol -d 'What is spoken on the connections: `raw` bytes; `websocket`, texts with a token that must come back after an upgrade; `http`, requests on kept connections, of whose path the token must come back' -r -f -a "raw\t''
websocket\t''
http\t''"
complete -c c1m -n "__fish_c1m_using_subcommand demo" -l hold -d 'How long to hold the connections between the two audits' -r
complete -c c1m -n "__fish_c1m_using_subcommand demo" -l network -d 'The network of server and client: this `host`\'s, or their `own`, a network namespace whose table of established connections has at least two buckets for each connection. `auto` uses their own network if the host\'s table has fewer buckets than there will be sockets, and a namespace is allowed' -r -f -a "auto\t''
host\t''
own\t''"
complete -c c1m -n "__fish_c1m_using_subcommand demo" -l hibernate -d 'Put connections to sleep at both ends that were silent for TIME, such as 1s; `auto` is 1 s. As `server` and `client` do with --hibernate' -r
complete -c c1m -n "__fish_c1m_using_subcommand demo" -l awake -d 'At most N connections have a socket at once at each end; each core may always have one. By default as many as memory allows, and before Linux 6.8 file descriptors, at most 32,768' -r
complete -c c1m -n "__fish_c1m_using_subcommand demo" -l json -d 'Write the result to FILE; - is standard output, where `client`, `storm` and `fanout` then write events as JSON lines first' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand demo" -l report -d 'Write one HTML file that shows the run: connections, rates and latencies over time' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand demo" -l hlog -d 'Write HdrHistogram\'s interval log: one interval per second, with a tag for each measure and shard' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand demo" -l tls -d 'Speak TLS 1.3 at both ends, with a certificate that is made for the run'
complete -c c1m -n "__fish_c1m_using_subcommand demo" -s q -l quiet -d 'Show no progress: only warnings and the result'
complete -c c1m -n "__fish_c1m_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -l role -d 'Which end of the connections this host is; `both` is a demo over loopback. By default `client` if --target-ip is given, else `both`' -r -f -a "server\t''
client\t''
both\t''"
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -l connections -d 'Connections in all' -r
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -l port -d 'First port' -r
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -l ports -d 'Number of ports from --port on' -r
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -l target-ip -d 'Addresses of the server, separated by commas: each gives a client all its source ports anew' -r
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -l source-ip -d 'Addresses to connect from, separated by commas, single or as a block such as 10.0.0.0/28' -r
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -l cores -d 'Use the first N cores this process may run on; all by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -l protocol -d 'What the server speaks, as its --protocol' -r -f -a "raw\t''
websocket\t''
http\t''"
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -l tls-min -d 'The lowest version of TLS, as --tls-min of `server` and `client`. With 1.2 each connection may take 112 bytes' -r -f -a "1.3\t''
1.2\t''"
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -l hibernate -d 'Connections sleep that were silent for TIME, as with --hibernate of `server`, `client` and `demo`. The time itself does not matter here' -r
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -l awake -d 'At most N connections have a socket at once at each end. By default as many as memory allows, and before Linux 6.8 file descriptors, at most 262,144; `demo` lets at most 32,768' -r
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -l json -d 'Write the page as JSON to FILE; without FILE, or as -, to standard output' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -l tls -d 'They speak TLS: 80 bytes more of a connection'
complete -c c1m -n "__fish_c1m_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l role -d 'Which end of the connections this host is; `both` is a demo over loopback. By default `client` if --target-ip is given, else `both`' -r -f -a "server\t''
client\t''
both\t''"
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l connections -d 'Connections in all' -r
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l port -d 'First port' -r
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l ports -d 'Number of ports from --port on' -r
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l target-ip -d 'Addresses of the server, separated by commas: each gives a client all its source ports anew' -r
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l source-ip -d 'Addresses to connect from, separated by commas, single or as a block such as 10.0.0.0/28' -r
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l cores -d 'Use the first N cores this process may run on; all by default' -r
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l protocol -d 'What the server speaks, as its --protocol' -r -f -a "raw\t''
websocket\t''
http\t''"
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l tls-min -d 'The lowest version of TLS, as --tls-min of `server` and `client`. With 1.2 each connection may take 112 bytes' -r -f -a "1.3\t''
1.2\t''"
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l hibernate -d 'Connections sleep that were silent for TIME, as with --hibernate of `server`, `client` and `demo`. The time itself does not matter here' -r
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l awake -d 'At most N connections have a socket at once at each end. By default as many as memory allows, and before Linux 6.8 file descriptors, at most 262,144; `demo` lets at most 32,768' -r
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l profile -d '`extreme` also prints the kernel command line with which a small server holds most' -r -f -a "standard\t''
extreme\t''"
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l tls -d 'They speak TLS: 80 bytes more of a connection'
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l apply -d 'Set them now, all or none. What was there is kept in /var/lib/c1m/tune.json'
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l persist -d 'Set them now, and write them to /etc/sysctl.d/zz-c1m.conf and, where a limit is too low, /etc/security/limits.d/zz-c1m.conf, for the next boot. A warning names every other file that would then lower one of them'
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l revert -d 'Restore exactly what was there before the first --apply or --persist, files included'
complete -c c1m -n "__fish_c1m_using_subcommand tune" -l for-article -d 'Print the settings of the article\'s kind, with what is wrong with each, and change nothing'
complete -c c1m -n "__fish_c1m_using_subcommand tune" -s h -l help -d 'Print help'
complete -c c1m -n "__fish_c1m_using_subcommand report; and not __fish_seen_subcommand_from merge html compare help" -s h -l help -d 'Print help'
complete -c c1m -n "__fish_c1m_using_subcommand report; and not __fish_seen_subcommand_from merge html compare help" -f -a "merge" -d 'Merge the results of several client machines: connections, failures, audits and counters are summed, latencies merged from their histograms, and the longest ramp counts. The exit code says whether they could be merged, not whether connections held'
complete -c c1m -n "__fish_c1m_using_subcommand report; and not __fish_seen_subcommand_from merge html compare help" -f -a "html" -d 'Write one HTML file that shows a result. It needs no network, and can be printed'
complete -c c1m -n "__fish_c1m_using_subcommand report; and not __fish_seen_subcommand_from merge html compare help" -f -a "compare" -d 'Compare two results: ratios, with the range over their shards'
complete -c c1m -n "__fish_c1m_using_subcommand report; and not __fish_seen_subcommand_from merge html compare help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c c1m -n "__fish_c1m_using_subcommand report; and __fish_seen_subcommand_from merge" -l json -d 'Write the merged result to FILE (- is standard output)' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand report; and __fish_seen_subcommand_from merge" -l html -d 'Write one HTML file that shows the merged result' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand report; and __fish_seen_subcommand_from merge" -s h -l help -d 'Print help'
complete -c c1m -n "__fish_c1m_using_subcommand report; and __fish_seen_subcommand_from html" -s o -l output -d 'File of the page (- is standard output)' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand report; and __fish_seen_subcommand_from html" -s h -l help -d 'Print help'
complete -c c1m -n "__fish_c1m_using_subcommand report; and __fish_seen_subcommand_from compare" -l json -d 'Write the comparison to FILE (- is standard output)' -r -F
complete -c c1m -n "__fish_c1m_using_subcommand report; and __fish_seen_subcommand_from compare" -s h -l help -d 'Print help'
complete -c c1m -n "__fish_c1m_using_subcommand report; and __fish_seen_subcommand_from help" -f -a "merge" -d 'Merge the results of several client machines: connections, failures, audits and counters are summed, latencies merged from their histograms, and the longest ramp counts. The exit code says whether they could be merged, not whether connections held'
complete -c c1m -n "__fish_c1m_using_subcommand report; and __fish_seen_subcommand_from help" -f -a "html" -d 'Write one HTML file that shows a result. It needs no network, and can be printed'
complete -c c1m -n "__fish_c1m_using_subcommand report; and __fish_seen_subcommand_from help" -f -a "compare" -d 'Compare two results: ratios, with the range over their shards'
complete -c c1m -n "__fish_c1m_using_subcommand report; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c c1m -n "__fish_c1m_using_subcommand help; and not __fish_seen_subcommand_from server client storm fanout demo doctor tune report help" -f -a "server" -d 'Hold connections and serve them'
complete -c c1m -n "__fish_c1m_using_subcommand help; and not __fish_seen_subcommand_from server client storm fanout demo doctor tune report help" -f -a "client" -d 'Open, prove and measure connections'
complete -c c1m -n "__fish_c1m_using_subcommand help; and not __fish_seen_subcommand_from server client storm fanout demo doctor tune report help" -f -a "storm" -d 'Disturb a server that holds connections, and measure how the connections that the storm spares fare'
complete -c c1m -n "__fish_c1m_using_subcommand help; and not __fish_seen_subcommand_from server client storm fanout demo doctor tune report help" -f -a "fanout" -d 'Publish to many subscribers, and prove that each got every publication exactly once'
complete -c c1m -n "__fish_c1m_using_subcommand help; and not __fish_seen_subcommand_from server client storm fanout demo doctor tune report help" -f -a "demo" -d 'Server and client on this machine: a million connections, a report'
complete -c c1m -n "__fish_c1m_using_subcommand help; and not __fish_seen_subcommand_from server client storm fanout demo doctor tune report help" -f -a "doctor" -d 'Judge this host against a goal, wall by wall; changes nothing. Exits with 1 if a wall blocks the goal'
complete -c c1m -n "__fish_c1m_using_subcommand help; and not __fish_seen_subcommand_from server client storm fanout demo doctor tune report help" -f -a "tune" -d 'Show the settings that this host needs for a goal, apply them, and restore the old ones'
complete -c c1m -n "__fish_c1m_using_subcommand help; and not __fish_seen_subcommand_from server client storm fanout demo doctor tune report help" -f -a "report" -d 'Read results that earlier runs wrote'
complete -c c1m -n "__fish_c1m_using_subcommand help; and not __fish_seen_subcommand_from server client storm fanout demo doctor tune report help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c c1m -n "__fish_c1m_using_subcommand help; and __fish_seen_subcommand_from report" -f -a "merge" -d 'Merge the results of several client machines: connections, failures, audits and counters are summed, latencies merged from their histograms, and the longest ramp counts. The exit code says whether they could be merged, not whether connections held'
complete -c c1m -n "__fish_c1m_using_subcommand help; and __fish_seen_subcommand_from report" -f -a "html" -d 'Write one HTML file that shows a result. It needs no network, and can be printed'
complete -c c1m -n "__fish_c1m_using_subcommand help; and __fish_seen_subcommand_from report" -f -a "compare" -d 'Compare two results: ratios, with the range over their shards'
