// Go's crypto/tls: a goroutine and a buffer per connection.
package main

import (
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// bufferBytes is that of every peer with a buffer per connection.
const bufferBytes = 4096

func main() {
	// ADDRESS FIRST_PORT PORTS CORES; Go raises the limit of open files by itself.
	if len(os.Args) != 5 {
		log.Fatal("expected ADDRESS FIRST_PORT PORTS CORES, such as 127.0.0.1 21000 100 0,1")
	}
	first, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	ports, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(os.Getenv("TLS_CERTIFICATE"), os.Getenv("TLS_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
	runtime.GOMAXPROCS(strings.Count(os.Args[4], ",") + 1)
	for port := first; port < first+ports; port++ {
		listener, err := net.Listen("tcp4", net.JoinHostPort(os.Args[1], strconv.Itoa(port)))
		if err != nil {
			log.Fatal(err)
		}
		go serve(tls.NewListener(listener, config))
	}
	fmt.Println("ready")
	select {}
}

func serve(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Print(err)
			continue
		}
		go echo(conn)
	}
}

func echo(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, bufferBytes)
	for {
		count, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err := conn.Write(buffer[:count]); err != nil {
			return
		}
	}
}
