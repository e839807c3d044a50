;; A tool of the first version of the contract, frozen: its own copy of the types and functions of `fumehood:tool@0.1.0`, as they
;; were when components were first built against them. Never change it: that it goes on working is what a host of every 0.1.x promises.
(component
  (import "fumehood:tool/types@0.1.0" (instance $types
    (type $effect' (enum "pure" "idempotent" "at-most-once"))
    (export "effect" (type $effect (eq $effect')))
    (type $definition' (record
      (field "name" string) (field "title" (option string)) (field "description" string)
      (field "input-schema" string) (field "output-schema" (option string))
      (field "effect" $effect) (field "read-only" bool) (field "destructive" bool) (field "open-world" bool)))
    (export "definition" (type (eq $definition')))
    (type $tool-call' (record
      (field "id" string) (field "tool" string) (field "arguments" string) (field "idempotency-key" string)
      (field "deadline-ms" u64) (field "locale" (option string))))
    (export "tool-call" (type (eq $tool-call')))
    (type $blob' (record (field "media-type" string) (field "data" (list u8))))
    (export "blob" (type $blob (eq $blob')))
    (type $content' (variant
      (case "text" string) (case "json" string) (case "image" $blob) (case "audio" $blob) (case "file" string)))
    (export "content" (type $content (eq $content')))
    (type $output' (record
      (field "content" (list $content)) (field "structured" (option string)) (field "is-error" bool)))
    (export "output" (type (eq $output')))
    (type $retry' (record (field "message" string) (field "after-ms" (option u64))))
    (export "retry" (type $retry (eq $retry')))
    (type $failure' (variant
      (case "invalid-arguments" string) (case "denied" string) (case "not-found" string) (case "unavailable" $retry)
      (case "failed" string)))
    (export "failure" (type (eq $failure')))))
  (import "fumehood:tool/progress@0.1.0" (instance $progress
    (export "report" (func (param "message" string) (param "fraction" (option f32))))))
  (alias export $types "definition" (type $definition))
  (alias export $types "tool-call" (type $tool-call))
  (alias export $types "output" (type $output))
  (alias export $types "failure" (type $failure))

  (core module $memory
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 32768))
    ;; Bump allocation is enough: the instance ends with the call.
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (local.get $at)))
  (core module $code
    (import "memory" "memory" (memory 1))
    (import "progress" "report" (func $report (param i32 i32 i32 f32)))
    (func (export "definitions") (result i32) (i32.const 0))
    ;; The parameters are those of `tool-call`, flat: $arguments are the fifth and the sixth.
    (func (export "call")
      (param i32 i32 i32 i32) (param $arguments i32) (param $length i32) (param i32 i32 i64 i32 i32 i32) (result i32)
      (call $report (i32.const 267) (i32.const 8) (i32.const 1) (f32.const 0.5))
      ;; One content, `json`, with the arguments as they came.
      (i32.store8 (i32.const 16384) (i32.const 1))
      (i32.store (i32.const 16388) (local.get $arguments))
      (i32.store (i32.const 16392) (local.get $length))
      ;; `ok`, a list of that one, no structured value, no error.
      (i32.store8 (i32.const 16448) (i32.const 0))
      (i32.store (i32.const 16456) (i32.const 16384))
      (i32.store (i32.const 16460) (i32.const 1))
      (i32.store8 (i32.const 16464) (i32.const 0))
      (i32.store8 (i32.const 16476) (i32.const 0))
      (i32.const 16448))
    ;; The list of one definition, the definition, its texts.
    (data (i32.const 0) "\08\00\00\00\01\00\00\00")
    (data (i32.const 8) "<\00\00\00\08\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00D\00\00\00:\00\00\00~\00\00\00\8d\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\01\00\00")
    (data (i32.const 60)
      "old_echo"
      "Says again what it is told, as tools did on the first day."
      "{\22type\22:\22object\22,\22additionalProperties\22:false,\22required\22:[\22text\22],\22properties\22:{\22text\22:{\22type\22:\22string\22,\22description\22:\22What to say again.\22}}}"
      "half way"))

  (core instance $memory (instantiate $memory))
  (core func $report (canon lower (func $progress "report") (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core instance $code (instantiate $code
    (with "memory" (instance $memory))
    (with "progress" (instance (export "report" (func $report))))))
  (func $definitions (result (list $definition))
    (canon lift (core func $code "definitions") (memory (core memory $memory "memory"))))
  (func $call (param "request" $tool-call) (result (result $output (error $failure)))
    (canon lift (core func $code "call") (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (instance $tools
    (export "definitions" (func $definitions))
    (export "call" (func $call)))
  (export "fumehood:tool/tools@0.1.0" (instance $tools)))
