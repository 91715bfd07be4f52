"""The words of English that tell questions apart, for `wording.py`: a line of a table holds words that mean the same here.

Of two questions that an encoder takes for one, the words of these tables must agree. A word too many costs hits; one that is missing
costs wrong ones, unless the encoder sees the difference: `benchmarks/semantic_cache.py` measures both.
"""

from __future__ import annotations


def _table(lines: str) -> dict[str, str]:
    """By word: the first word of its line, which stands for all of them."""
    return {word: line.split()[0] for line in lines.strip().splitlines() for word in line.split()}


NUMBERS = _table("""
0 zero
1 one
2 two
3 three
4 four
5 five
6 six
7 seven
8 eight
9 nine
10 ten
11 eleven
12 twelve dozen dozens
13 thirteen
14 fourteen
15 fifteen
16 sixteen
17 seventeen
18 eighteen
19 nineteen
20 twenty
30 thirty
40 forty
50 fifty
60 sixty
70 seventy
80 eighty
90 ninety
100 hundred hundreds
1000 thousand thousands
million millions
billion billions
half halves halved
third thirds
quarter quarters
2nd second
4th fourth
5th fifth
6th sixth
7th seventh
8th eighth
9th ninth
10th tenth
twice double doubled doubles
thrice triple tripled triples
once
couple
pair pairs
""")
"""Words for numbers. `second` is one too where it means a unit of time: told apart from too much, never from too little."""

UNITS = _table("""
dollar $ dollars usd buck bucks
cent ¢ cents
euro € euros eur
pound £ pounds gbp lb lbs
percent % percents percentage
km kilometer kilometers kilometre kilometres kms
mile miles mi
meter meters metre metres
cm centimeter centimeters centimetre centimetres
mm millimeter millimeters millimetre millimetres
foot feet ft
inch inches
yard yards yd
acre acres
hectare hectares
kg kilogram kilograms kilo kilos
gram grams
mg milligram milligrams
ounce ounces oz
ton tons tonne tonnes
liter liters litre litres
ml milliliter milliliters
gallon gallons
cup cups
pint pints
millisecond milliseconds ms
seconds secs sec
minute minutes min mins
hour hours hr hrs hourly
day days daily
week weeks weekly
month months monthly
year years yearly annual annually
decade decades
century centuries
celsius
fahrenheit
kelvin
degree degrees
byte bytes
kb kilobyte kilobytes
mb megabyte megabytes
gb gigabyte gigabytes
tb terabyte terabytes
watt watts
kwh
mph
""")

NEGATIONS = _table("""
not n't cannot isnt dont doesnt didnt cant wont nor neither
no none nobody nothing nowhere
never
without lacking lack
except excluding besides exclude
unless
hardly barely scarcely rarely seldom
fail fails failed
avoid avoids avoiding avoided
stop stops stopped stopping
false untrue incorrect
""")

OPPOSITES = _table("""
more greater bigger larger
less fewer smaller
most maximum max maximal maximize greatest largest biggest
least minimum min minimal minimize smallest fewest
better
best
worse
worst
higher
highest tallest
lower lowers lowering reduce reduces reducing decrease decreases decreasing
lowest
raise raises raising increase increases increasing
raised increased
reduced decreased lowered
longer
shorter
longest
shortest
older elder
younger
newer
oldest eldest
youngest
newest latest
faster quicker
slower
fastest quickest
slowest
cheaper
dearer pricier
cheapest
before prior
after afterwards following
until till
since
first
last final
next
previous former
earlier sooner
later
earliest
today
tomorrow
yesterday
now current currently
early
late
ago
above over
below under beneath underneath
inside within
outside
into
from
against
between
left
right
true correct
wrong
good
bad
hot
cold
warm
cool
big large
small little
high tall
low
fast quick quickly
slow slowly
long
short brief briefly concise
old
new
young
rich
poor
cheap
expensive
easy easily
hard difficult
light
dark
open opens
close closes closed
on
off
up
down
out
buy buys bought purchase purchases purchased acquire acquires acquired
sell sells sold
win wins won winner
lose loses lost loser
start starts begin begins starting beginning
end ends ending
finish finishes finished
enable enables
disable disables
install installs
uninstall uninstalls
add adds added plus
remove removes removed delete deletes deleted erase
subtract minus subtracted
multiply multiplied times product
divide divided quotient
sum total altogether combined
difference
average
remain remains remaining remainder rest
accept accepts
reject rejects
allow allows allowed
forbid forbids forbidden
borrow borrows
lend lends
give gives given gave
take takes took
receive receives
send sends
push pushes
pull pulls
import imports imported
export exports exported
encrypt encode
decrypt decode
ascending
descending
forward forwards
backward backwards
north northern
south southern
east eastern
west western
horizontal horizontally
vertical vertically
positive
negative
odd
even
minor
major
odds
internal
external
public
private
male man men boy boys
female woman women girl girls
husband
wife
mother mom
father dad
brother
sister
son
daughter
parent parents
child children
buyer customer
seller vendor
teacher
student
employer
employee
cause causes caused
effect effects
advantage advantages pro pros benefit benefits
disadvantage disadvantages con cons drawback drawbacks
similarity similarities
opposite
synonym synonyms
antonym antonyms
input inputs
output outputs
always
usually often
sometimes
only solely just
mostly mainly
all every each everyone everything
anyone anything
some someone something
both
either
many
much
several
few
enough
other others another
same
different
exactly precisely
approximately about roughly around
if
because
although though despite
instead
than
per
""")
"""Words of which another one turns a question into another. Those of a line are taken for the same, all others for different."""

INSTRUCTIONS = _table("""
json
yaml
xml
csv
html
markdown
latex
table
list lists listed
bullet bullets
word words
sentence sentences
paragraph paragraphs
page pages
line lines
step steps
character characters
letter letters
essay
poem
story
haiku
song
email e-mail
tweet
title
outline
example examples
rhyme rhymes
joke
summarize summarise summary summaries
justify justification
translate translation translated
rewrite rephrase paraphrase
proofread
fix
shorten
lengthen expand elaborate
detail details detailed thorough
simple simply
formal formally
informal informally casual
compare comparison contrast
sort sorted order
count
rank
classify
convert
extract
estimate
prove
verify
english
french
german
spanish
italian
portuguese
chinese
japanese
korean
russian
arabic
hindi
dutch
python
java
javascript js
typescript
rust
golang
sql
bash
comment comments
""")

ASKED = _table("""
who whom
whose
when
where
why
how
""")
"""What is asked for; `what` and `which` ask for whatever else the question names."""

TIMES = _table("""
was were did had been
will shall gonna
would
can may could might able
should must ought
""")

PERSONS = _table("""
i me my mine myself
you yourself your yours
he him his himself
she her hers herself
they them their theirs themselves
we us our ours
""")

PHRASES = frozenset(
    _table("""
a an the this that these those there here it
is are am be being do does doing
what which whether any of to and so then
please kindly
""")
)
"""Words without which a question asks the same; left out of every comparison."""

STRICT = (
    ("number", NUMBERS),
    ("unit", UNITS),
    ("negation", NEGATIONS),
    ("opposite", OPPOSITES),
    ("instruction", INSTRUCTIONS),
    ("asked", ASKED),
    ("time", TIMES),
    ("person", PERSONS),
)
KINDS = {word: (kind, form) for kind, table in reversed(STRICT) for word, form in table.items()}
