package main

import (
	"errors"
	"testing"
)

// answering lets every request have this answer.
func answering(t *testing.T, answer Answer) {
	before := Get
	t.Cleanup(func() { Get = before })
	answer.Host = "api.forecast.example"
	Get = func(string, map[string]string) (*Answer, error) { return &answer, nil }
}

func kind(t *testing.T, arguments string) *Failure {
	t.Helper()
	_, err := forecast([]byte(arguments))
	var failure *Failure
	if !errors.As(err, &failure) {
		t.Fatalf("no failure, but %v", err)
	}
	return failure
}

func TestEachDayIsALine(t *testing.T) {
	answering(t, Answer{Status: 200, Body: []byte(`{"city": "Tromsø", "days": [{"date": "2030-06-01", "summary": "rain", "low": 8, "high": 12.5}]}`)})
	output, err := forecast([]byte(`{"city": "Tromsø"}`))
	if err != nil || output.Text != "Tromsø\n2030-06-01: rain, 8 to 12.5 °C" {
		t.Fatal(output, err)
	}
}

func TestFailuresSayWhatKindTheyAre(t *testing.T) {
	if failure := kind(t, `{"city": " "}`); failure.Kind != InvalidArguments {
		t.Error(failure)
	}
	if failure := kind(t, `{"city": "Bergen"}`); failure.Kind != Denied {
		t.Error(failure)
	}
	answering(t, Answer{Status: 404})
	if failure := kind(t, `{"city": "Atlantis"}`); failure.Kind != NotFound {
		t.Error(failure)
	}
	answering(t, Answer{Status: 429, RetryAfter: "30"})
	if failure := kind(t, `{"city": "Bergen"}`); failure.Kind != Unavailable || failure.AfterMs != 30000 {
		t.Error(failure)
	}
	answering(t, Answer{Status: 200, Body: []byte("<html>")})
	if failure := kind(t, `{"city": "Bergen"}`); failure.Kind != Failed {
		t.Error(failure)
	}
}
