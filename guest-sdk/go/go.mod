module kvasm

go 1.24
