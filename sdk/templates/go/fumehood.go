package main

// From functions to tools: what lies between `tool.go` and the contract. Nothing here knows your tools. `abi.go` has
// the part that is WebAssembly's; outside a component, as in your tests, everything works but Get, which is denied.

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Kind says why there is no result.
type Kind uint8

const (
	InvalidArguments Kind = iota // the arguments break a rule that the schema could not express
	Denied                       // a grant, a rule or a service said no
	NotFound                     // what the arguments name does not exist
	Unavailable                  // something is not there now and may be there later
	Failed                       // anything else
)

// Failure is why a tool has no result. The message is for the model: what happened, why, and what to do instead.
type Failure struct {
	Kind    Kind
	Message string
	AfterMs int64 // of Unavailable: when trying again may help; 0 if unknown
}

func (failure *Failure) Error() string { return failure.Message }

// Fail makes a failure; its message is formatted as by fmt.
func Fail(kind Kind, format string, values ...any) error {
	return &Failure{Kind: kind, Message: fmt.Sprintf(format, values...)}
}

// Effect says what running the same call again would do outside.
type Effect uint8

const (
	Pure Effect = iota
	Idempotent
	AtMostOnce
)

// Output is a result: text for the model, and an object for programs or nil.
type Output struct {
	Text       string
	Structured any
}

// Tool is one tool: what the model reads, and the function. Its arguments are JSON that satisfies InputSchema; an
// error that is no Failure becomes Failed.
type Tool struct {
	Name, Title, Description, InputSchema string
	Effect                                Effect
	ReadOnly, Destructive, OpenWorld      bool
	Run                                   func(arguments []byte) (Output, error)
}

// Answer is one that came, whatever its status.
type Answer struct {
	Host       string
	Status     int
	RetryAfter string
	Body       []byte
}

// Ok returns the failure that the status stands for, nil if it is one of success.
func (answer *Answer) Ok() error {
	if answer.Status >= 200 && answer.Status < 300 {
		return nil
	}
	failure := &Failure{Kind: Failed, Message: fmt.Sprintf("%s answered %d", answer.Host, answer.Status)}
	switch answer.Status {
	case 401, 403:
		failure.Kind = Denied
	case 404, 410:
		failure.Kind = NotFound
	case 408, 425, 429, 500, 502, 503, 504:
		failure.Kind = Unavailable
		if seconds, err := strconv.Atoi(answer.RetryAfter); err == nil && seconds > 0 {
			failure.AfterMs = int64(seconds) * 1000
		}
	}
	return failure
}

// JSON reads the body into a value.
func (answer *Answer) JSON(into any) error {
	if json.Unmarshal(answer.Body, into) != nil {
		return Fail(Failed, "the answer of %s is not the expected JSON", answer.Host)
	}
	return nil
}

// Get makes a GET request through the host, which adds the key: write none into it. It is a variable for tests.
var Get = func(address string, query map[string]string) (*Answer, error) {
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, Fail(InvalidArguments, "%s is no URL", address)
	}
	values := url.Values{}
	for name, value := range query {
		values.Set(name, value)
	}
	// A plus is a space to some servers only.
	parsed.RawQuery = strings.ReplaceAll(values.Encode(), "+", "%20")
	return send(parsed)
}

// run makes one call of one of the tools.
func run(tools []Tool, name string, arguments []byte) (Output, *Failure) {
	for _, tool := range tools {
		if tool.Name != name {
			continue
		}
		output, err := tool.Run(arguments)
		if err == nil {
			return output, nil
		}
		var failure *Failure
		if !errors.As(err, &failure) {
			failure = &Failure{Kind: Failed, Message: err.Error()}
		}
		return Output{}, failure
	}
	return Output{}, &Failure{Kind: NotFound, Message: "there is no tool " + name}
}
