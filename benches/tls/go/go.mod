module peer-tls-go

go 1.19
