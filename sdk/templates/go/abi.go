//go:build wasm

package main

// The contract in the canonical ABI of the component model, as far as `fumehood.go` uses it: what is imported and
// exported, and how records and variants lie in memory: pointers have 32 bits there, and 64 in Go. An instance serves
// one call and ends, so nothing is closed.

import (
	"encoding/json"
	"net/url"
	"runtime/debug"
	"unsafe"
)

// ---- Exports ----

// What the host has an address of stays where it is until the call ends.
var kept []any

type address = uint32

// lasting makes something that the host may write to, or read after a function has returned.
func lasting[T any](value T) *T {
	at := &value
	kept = append(kept, at)
	return at
}

func addressOf[T any](at *T) address { return address(uintptr(unsafe.Pointer(at))) }

func bytesAt(at address, size uint32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(uintptr(at))), size)
}

// The host asks for memory through cabi_realloc, from where nothing may be imported. Go's allocator asks for the time when it
// collects garbage or gives memory back, so it does neither from the start, nor while the host is asked for something.
func init() { collect(false) }

// collect says whether garbage may be collected. What was going on when it may no longer has ended when this returns.
func collect(may bool) {
	percent := -1
	if may {
		percent = 100
	}
	debug.SetGCPercent(percent)
}

//go:wasmexport cabi_realloc
func realloc(old unsafe.Pointer, oldSize, align, size uint32) unsafe.Pointer {
	// Words, so that any value may lie there.
	words := make([]uint64, size/8+1)
	kept = append(kept, words)
	at := unsafe.Pointer(&words[0])
	if oldSize > 0 {
		copy(unsafe.Slice((*byte)(at), size), unsafe.Slice((*byte)(old), min(oldSize, size)))
	}
	return at
}

// A text, or a list.
type list struct {
	at   address
	size uint32
}

func lower(s string) list {
	bytes := append([]byte(s), 0)
	kept = append(kept, bytes)
	return list{addressOf(&bytes[0]), uint32(len(s))}
}

type optionText struct {
	some  bool
	value list
}

func some(s string) optionText { return optionText{s != "", lower(s)} }

type definition struct {
	name                             list
	title                            optionText
	description, inputSchema         list
	outputSchema                     optionText
	effect                           Effect
	readOnly, destructive, openWorld bool
}

//go:wasmexport fumehood:tool/tools@0.1.0#definitions
func exportDefinitions() unsafe.Pointer {
	all := make([]definition, len(tools))
	for i, tool := range tools {
		all[i] = definition{
			name: lower(tool.Name), title: some(tool.Title), description: lower(tool.Description), inputSchema: lower(tool.InputSchema),
			effect: tool.Effect, readOnly: tool.ReadOnly, destructive: tool.Destructive, openWorld: tool.OpenWorld,
		}
	}
	kept = append(kept, all)
	return unsafe.Pointer(lasting(list{addressOf(&all[0]), uint32(len(all))}))
}

// One piece of content: a text. The largest other case is a blob, of 16 bytes.
type content struct {
	kind  uint8
	value list
	_     [2]uint32
}

// The two cases of `result<output, failure>`; their size is that of the larger one.
type succeeded struct {
	failed     bool
	_          [7]byte
	content    list
	structured optionText
	isError    bool
	_          [12]byte
}

type failed struct {
	failed  bool
	_       [7]byte
	kind    Kind
	_       [7]byte
	message list
	known   bool
	_       [7]byte
	afterMs int64
}

//go:wasmexport fumehood:tool/tools@0.1.0#call
func exportCall(_ unsafe.Pointer, _ uint32, tool unsafe.Pointer, toolSize uint32, arguments unsafe.Pointer, argumentsSize uint32,
	_ unsafe.Pointer, _ uint32, _ int64, _ uint32, _ unsafe.Pointer, _ uint32) unsafe.Pointer {
	collect(true)
	name := string(unsafe.Slice((*byte)(tool), toolSize))
	output, failure := run(tools, name, unsafe.Slice((*byte)(arguments), argumentsSize))
	structured := ""
	if failure == nil && output.Structured != nil {
		encoded, err := json.Marshal(output.Structured)
		if err != nil {
			failure = &Failure{Kind: Failed, Message: "the result cannot be written as JSON: " + err.Error()}
		}
		structured = string(encoded)
	}
	if failure != nil {
		result := lasting(failed{failed: true, kind: failure.Kind, message: lower(failure.Message)})
		if failure.Kind == Unavailable && failure.AfterMs > 0 {
			result.known, result.afterMs = true, failure.AfterMs
		}
		return unsafe.Pointer(result)
	}
	piece := lasting(content{value: lower(output.Text)})
	return unsafe.Pointer(lasting(succeeded{content: list{addressOf(piece), 1}, structured: some(structured)}))
}

// ---- Imports ----

// Those that return a text or a list, alone or inside of something, are called between collect(false) and collect(true).

//go:wasmimport wasi:http/types@0.2.12 [constructor]fields
func fieldsNew() int32

//go:wasmimport wasi:http/types@0.2.12 [method]fields.get
func fieldsGet(fields int32, name string, values unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.12 [constructor]outgoing-request
func requestNew(headers int32) int32

//go:wasmimport wasi:http/types@0.2.12 [method]outgoing-request.set-scheme
func requestScheme(request, some, scheme int32, other string) int32

//go:wasmimport wasi:http/types@0.2.12 [method]outgoing-request.set-authority
func requestAuthority(request, some int32, authority string) int32

//go:wasmimport wasi:http/types@0.2.12 [method]outgoing-request.set-path-with-query
func requestPath(request, some int32, path string) int32

//go:wasmimport wasi:http/outgoing-handler@0.2.12 handle
func handle(request, hasOptions, options int32, sent unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.12 [method]future-incoming-response.subscribe
func futureSubscribe(future int32) int32

//go:wasmimport wasi:http/types@0.2.12 [method]future-incoming-response.get
func futureGet(future int32, answered unsafe.Pointer)

//go:wasmimport wasi:io/poll@0.2.12 [method]pollable.block
func block(pollable int32)

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-response.status
func responseStatus(response int32) uint32

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-response.headers
func responseHeaders(response int32) int32

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-response.consume
func responseConsume(response int32, body unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-body.stream
func bodyStream(body int32, stream unsafe.Pointer)

//go:wasmimport wasi:io/streams@0.2.12 [method]input-stream.blocking-read
func streamRead(stream int32, most uint64, read unsafe.Pointer)

// `result<HANDLE, error-code>`: a handle, or a case numbered as in `wit/deps/http.wit`, at the same place.
type sent struct {
	failed bool
	_      [7]byte
	value  uint32
	_      [28]byte
}

func (sent *sent) code() uint8 { return uint8(sent.value) }

// `option<result<result<HANDLE, error-code>>>`.
type answered struct {
	some  bool
	_     [7]byte
	taken bool
	_     [7]byte
	sent
}

// `result<HANDLE>`.
type taken struct {
	failed bool
	handle int32
}

// `result<list<u8>, stream-error>`.
type read struct {
	failed bool
	bytes  list // if failed, 1 in the first byte means that the stream has ended
}

// More than a tool should read at once.
const mostBody = 1 << 20

func send(to *url.URL) (*Answer, error) {
	collect(false)
	defer collect(true)
	request := requestNew(fieldsNew())
	scheme := int32(1)
	if to.Scheme == "http" {
		scheme = 0
	}
	if requestScheme(request, 1, scheme, "")|requestAuthority(request, 1, to.Host)|requestPath(request, 1, to.RequestURI()) != 0 {
		return nil, Fail(InvalidArguments, "%s is no URL", to)
	}
	first := lasting(sent{})
	handle(request, 0, 0, unsafe.Pointer(first))
	if !first.failed {
		future := lasting(answered{})
		block(futureSubscribe(int32(first.value)))
		futureGet(int32(first.value), unsafe.Pointer(future))
		first = &future.sent
	}
	if first.failed {
		return nil, refused(to.Host, first.code())
	}
	response := int32(first.value)
	answer := &Answer{Host: to.Host, Status: int(responseStatus(response)), RetryAfter: header(response, "retry-after")}
	return answer, readBody(response, answer)
}

func refused(host string, code uint8) error {
	const ipProhibited, limitReached, requestDenied, responseTimeout = 4, 11, 15, 33
	switch {
	case code == requestDenied || code == ipProhibited:
		return Fail(Denied, "the request to %s was denied (error %d of wasi:http)", host, code)
	case code <= limitReached || code == responseTimeout:
		return Fail(Unavailable, "%s cannot be reached (error %d of wasi:http)", host, code)
	}
	return Fail(Failed, "the request to %s failed (error %d of wasi:http)", host, code)
}

func header(response int32, name string) string {
	values := lasting(list{})
	fieldsGet(responseHeaders(response), name, unsafe.Pointer(values))
	if values.size == 0 {
		return ""
	}
	value := (*list)(unsafe.Pointer(uintptr(values.at)))
	return string(bytesAt(value.at, value.size))
}

func readBody(response int32, answer *Answer) error {
	body, stream, chunk := lasting(taken{}), lasting(taken{}), lasting(read{})
	responseConsume(response, unsafe.Pointer(body))
	bodyStream(body.handle, unsafe.Pointer(stream))
	for {
		streamRead(stream.handle, 65536, unsafe.Pointer(chunk))
		if chunk.failed && uint8(chunk.bytes.at) == 1 {
			return nil
		}
		if chunk.failed {
			return Fail(Failed, "the answer of %s breaks off", answer.Host)
		}
		answer.Body = append(answer.Body, bytesAt(chunk.bytes.at, chunk.bytes.size)...)
		if len(answer.Body) > mostBody {
			return Fail(Failed, "the answer of %s is longer than %d bytes", answer.Host, mostBody)
		}
	}
}
