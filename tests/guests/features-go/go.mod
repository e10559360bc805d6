module features

go 1.24

require kvasm v0.0.0

replace kvasm => ../../../guest-sdk/go
