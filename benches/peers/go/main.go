// Go's standard library: a goroutine and a buffer per connection; over crypto/tls if a certificate is named. A plain loop
// rather than io.Copy, which would splice through a pipe and hold two more descriptors per idle connection.
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

// Bytes of the buffer of every peer with one per connection, and of those that speak TLS (benches/support/src/contract.rs).
const (
	bufferBytes       = 1024
	recordBufferBytes = 4096
)

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
	config := secured()
	runtime.GOMAXPROCS(strings.Count(os.Args[4], ",") + 1)
	for port := first; port < first+ports; port++ {
		listener, err := net.Listen("tcp4", net.JoinHostPort(os.Args[1], strconv.Itoa(port)))
		if err != nil {
			log.Fatal(err)
		}
		if config == nil {
			go serve(listener, bufferBytes)
		} else {
			go serve(tls.NewListener(listener, config), recordBufferBytes)
		}
	}
	fmt.Println("ready")
	select {}
}

// secured is nil where the environment names no certificate.
func secured() *tls.Config {
	certificate := os.Getenv("TLS_CERTIFICATE")
	if certificate == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(certificate, os.Getenv("TLS_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
}

func serve(listener net.Listener, buffer int) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Print(err)
			continue
		}
		go echo(conn, buffer)
	}
}

func echo(conn net.Conn, bytes int) {
	defer conn.Close()
	buffer := make([]byte, bytes)
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
