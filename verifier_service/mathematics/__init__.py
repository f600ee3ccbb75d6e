"""When are two mathematical answers the same? From text to verdict:

    notation       one spelling for what can be spelled in many ways      (text -> text)
    number         integers, decimals, fractions, units, read exactly     (text -> Number)
    tokens, syntax expressions, sets, intervals, relations, matrices      (text -> Node)
    evaluation     the value of a scalar at a sample point                (Node -> number)
    value          scalars: exact, or at sample points to 60 digits       (Node, Node -> equal?)
    intervals, structure   sets, tuples, unions, relations                (Node, Node -> equal?)
    reading        all of these of one text, each when it is asked for    (text -> Reading)
    equivalence    the strict judge: yes, no, or not decided              (text, text -> Decision)
    symbolic       the second judge, math-verify, run in the sandbox      (JSON -> JSON)

Nothing here evaluates text: the strict judge has its own parser, and only `symbolic` imports SymPy.
"""
