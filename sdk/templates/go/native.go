//go:build !wasm

package main

import "net/url"

// There is no host here.
func send(to *url.URL) (*Answer, error) {
	return nil, Fail(Denied, "the request to %s was denied: there is no host here", to.Host)
}
