/* From functions to tools: what lies between `tool.c` and the contract in `wit/`. Include it in one file.
 *
 * Nothing here knows your tools; change it if your tools need more of the contract (`wit-bindgen c` generates all of it).
 * An instance serves one call and ends, so nothing is ever freed or closed. Compiled for anything but WebAssembly, as
 * in your tests, everything works but `fh_http_get`, which the test defines. */
#ifndef FUMEHOOD_H
#define FUMEHOOD_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- What a tool uses ---- */

/* Bytes with their length; text is UTF-8. */
typedef struct { const char *at; size_t size; } fh_text;

/* What running the same call again would do outside: see `wit/deps/fumehood-tool/types.wit`. */
enum { FH_PURE, FH_IDEMPOTENT, FH_AT_MOST_ONCE };

/* Why there is no result. */
enum { FH_INVALID_ARGUMENTS, FH_DENIED, FH_NOT_FOUND, FH_UNAVAILABLE, FH_FAILED };

/* How a call went: what `fh_ok` and `fh_fail` make. */
typedef struct {
  bool ok;
  fh_text text, structured;  /* if ok; `structured` is JSON or empty */
  int kind;                  /* if not: one of the kinds above */
  fh_text message;
  int64_t after_ms;          /* of FH_UNAVAILABLE; negative if unknown */
} fh_result;

/* A tool: what the model reads, and the function. `arguments` is JSON that satisfies `input_schema`. */
typedef struct {
  const char *name, *title, *description, *input_schema;
  int effect;
  bool read_only, destructive, open_world;
  fh_result (*run)(fh_text arguments);
} fh_tool;

/* Yours to define: all tools of the component. The last one has no name. */
extern const fh_tool fh_tools[];

/* An answer that came, whatever its status; if none came, `failure` says why not and `status` is 0. */
typedef struct {
  int status;
  fh_text body;
  int64_t retry_after_ms;  /* negative if the answer does not say */
  fh_result failure;
} fh_answer;

/* A GET request through the host, which adds the key: write none into the URL. At most `most` bytes of body. */
fh_answer fh_http_get(const char *url, size_t most);

static fh_result fh_ok(fh_text text, fh_text structured) {
  return (fh_result){.ok = true, .text = text, .structured = structured};
}

/* Formatted as by printf, in memory that lasts as long as the call. */
static fh_text fh_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
static fh_text fh_vformat(const char *format, va_list values) {
  va_list again;
  va_copy(again, values);
  int size = vsnprintf(NULL, 0, format, values);
  char *at = malloc((size_t)size + 1);
  if (!at) abort();
  vsnprintf(at, (size_t)size + 1, format, again);
  va_end(again);
  return (fh_text){at, (size_t)size};
}
static fh_text fh_format(const char *format, ...) {
  va_list values;
  va_start(values, format);
  fh_text text = fh_vformat(format, values);
  va_end(values);
  return text;
}

/* A failure, with a message for the model: what happened, why, and what to do instead. */
static fh_result fh_fail(int kind, const char *format, ...) __attribute__((format(printf, 2, 3)));
static fh_result fh_fail(int kind, const char *format, ...) {
  va_list values;
  va_start(values, format);
  fh_text message = fh_vformat(format, values);
  va_end(values);
  return (fh_result){.kind = kind, .message = message, .after_ms = -1};
}

/* Text as the `%.*s` of printf takes it. */
#define FH_SHOW(text) (int)(text).size, (text).at

/* What a status that is no success stands for. */
static fh_result fh_status(const char *host, const fh_answer *answer) {
  int status = answer->status, kind = FH_FAILED;
  if (!status) return answer->failure;
  if (status == 401 || status == 403) kind = FH_DENIED;
  if (status == 404 || status == 410) kind = FH_NOT_FOUND;
  if (status == 408 || status == 425 || status == 429 || status == 500 || (status >= 502 && status <= 504)) kind = FH_UNAVAILABLE;
  fh_result failure = fh_fail(kind, "%s answered %d", host, status);
  failure.after_ms = answer->retry_after_ms;
  return failure;
}

/* Text for a URL's query: everything but letters, digits and -._~ is escaped. */
static fh_text fh_escape(fh_text text) {
  char *at = malloc(text.size * 3 + 1), *to = at;
  if (!at) abort();
  for (size_t i = 0; i < text.size; i++) {
    unsigned char c = (unsigned char)text.at[i];
    bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("-._~", c));
    to += plain ? (*to = (char)c, 1) : sprintf(to, "%%%02X", c);
  }
  return (fh_text){at, (size_t)(to - at)};
}

/* ---- JSON, read in place: no value is copied until it is asked for, and broken text has no values ---- */

/* Without space at either end. */
static fh_text fh_json_trim(fh_text t) {
  while (t.size && strchr(" \t\r\n", *t.at) && *t.at) t.at++, t.size--;
  while (t.size && strchr(" \t\r\n", t.at[t.size - 1]) && t.at[t.size - 1]) t.size--;
  return t;
}

/* The first value of a text, and where it ends; empty if there is none. */
static fh_text fh_json_value(fh_text t) {
  t = fh_json_trim(t);
  size_t depth = 0, i = 0;
  for (bool quoted = false; i < t.size; i++) {
    char c = t.at[i];
    if (quoted) {
      if (c == '\\') i++;
      else if (c == '"' && (quoted = false, depth == 0)) return (fh_text){t.at, i + 1};
    } else if (c == '"') {
      if (depth == 0 && i) break;
      quoted = true;
    } else if (c == '{' || c == '[') {
      depth++;
    } else if (c == '}' || c == ']') {
      if (depth == 0) break;
      if (--depth == 0) return (fh_text){t.at, i + 1};
    } else if (depth == 0 && (c == ',' || c == ':' || c == ' ' || c == '\n' || c == '\r' || c == '\t')) {
      break;
    }
  }
  return depth == 0 && i <= t.size ? (fh_text){t.at, i} : (fh_text){t.at, 0};
}

/* Steps over `value` and a separator; whether there was one. */
static bool fh_json_step(fh_text *rest, fh_text value, char separator) {
  fh_text after = fh_json_trim((fh_text){value.at + value.size, (size_t)(rest->at + rest->size - value.at) - value.size});
  if (!value.size || !after.size || *after.at != separator) return false;
  *rest = (fh_text){after.at + 1, after.size - 1};
  return true;
}

/* The value of a key of an object; empty if there is none. The key must not need escapes. */
static fh_text fh_json_get(fh_text object, const char *key) {
  fh_text rest = fh_json_trim(object), none = {"", 0};
  if (!rest.size || *rest.at != '{') return none;
  rest.at++, rest.size--;
  for (;;) {
    fh_text name = fh_json_value(rest);
    if (!fh_json_step(&rest, name, ':')) return none;
    fh_text value = fh_json_value(rest);
    if (name.size == strlen(key) + 2 && !memcmp(name.at + 1, key, strlen(key))) return value;
    if (!fh_json_step(&rest, value, ',')) return none;
  }
}

/* The element of an array at a place; empty if there is none. */
static fh_text fh_json_at(fh_text array, size_t place) {
  fh_text rest = fh_json_trim(array), none = {"", 0};
  if (!rest.size || *rest.at != '[') return none;
  rest.at++, rest.size--;
  for (;; place--) {
    fh_text value = fh_json_value(rest);
    if (place == 0) return value;
    if (!fh_json_step(&rest, value, ',')) return none;
  }
}

/* A number, or `otherwise` if the value is none. */
static double fh_json_number(fh_text value, double otherwise) {
  char digits[32], *end;
  if (!value.size || value.size >= sizeof digits) return otherwise;
  memcpy(digits, value.at, value.size);
  digits[value.size] = 0;
  double number = strtod(digits, &end);
  return *end ? otherwise : number;
}

static size_t fh_utf8(uint32_t c, char *to) {
  if (c < 0x80) return to[0] = (char)c, 1;
  if (c < 0x800) return to[0] = (char)(0xC0 | c >> 6), to[1] = (char)(0x80 | (c & 63)), 2;
  if (c < 0x10000) return to[0] = (char)(0xE0 | c >> 12), to[1] = (char)(0x80 | (c >> 6 & 63)), to[2] = (char)(0x80 | (c & 63)), 3;
  to[0] = (char)(0xF0 | c >> 18), to[1] = (char)(0x80 | (c >> 12 & 63)), to[2] = (char)(0x80 | (c >> 6 & 63)), to[3] = (char)(0x80 | (c & 63));
  return 4;
}

static bool fh_hex4(const char *at, const char *end, uint32_t *code) {
  *code = 0;
  for (int i = 0; i < 4; i++, at++) {
    const char *digits = "0123456789abcdef0123456789ABCDEF", *digit = at < end && *at ? strchr(digits, *at) : NULL;
    if (!digit) return false;
    *code = *code << 4 | (uint32_t)((digit - digits) & 15);
  }
  return true;
}

/* A string without its quotes and escapes; empty if the value is none. */
static fh_text fh_json_string(fh_text value) {
  fh_text none = {"", 0};
  if (value.size < 2 || *value.at != '"') return none;
  const char *from = value.at + 1, *end = value.at + value.size - 1;
  char *at = malloc(value.size), *to = at;
  if (!at) abort();
  while (from < end) {
    if (*from != '\\') { *to++ = *from++; continue; }
    if (++from == end) return none;
    const char *escapes = "\"\\/bfnrt", *found = *from ? strchr(escapes, *from) : NULL;
    if (found) { *to++ = "\"\\/\b\f\n\r\t"[found - escapes]; from++; continue; }
    uint32_t code, low;
    if (*from++ != 'u' || !fh_hex4(from, end, &code)) return none;
    from += 4;
    if (code >= 0xD800 && code < 0xDC00 && end - from >= 6 && from[0] == '\\' && from[1] == 'u' && fh_hex4(from + 2, end, &low) &&
        low >= 0xDC00 && low < 0xE000) {
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      from += 6;
    }
    to += fh_utf8(code >= 0xD800 && code < 0xE000 ? 0xFFFD : code, to);
  }
  return (fh_text){at, (size_t)(to - at)};
}

#ifdef __wasm__
#include "fumehood_abi.h"
#endif
#endif
