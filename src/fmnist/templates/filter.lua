-- Numbers sections, figures, tables and equations, resolves references to them, and sets the bibliography.
-- Every number is made here, once, and written out; HTML and PDF cannot disagree.

local NAMES = { fig = "Figure", tbl = "Table", eq = "Equation", sec = "Section" }
local pdf, report
local targets = {} -- label -> { text = what a reference says, number = its number alone }
local twice, unresolved = {}, {}
local stringify = pandoc.utils.stringify

local function quoted(text) return '"' .. text:gsub("\\", "\\\\"):gsub('"', '\\"'):gsub("%s+", " ") .. '"' end

local function typst(text) return pandoc.RawBlock("typst", text) end

local function page(text) return pandoc.RawBlock("html", text) end

local function define(label, kind, number)
  if targets[label] then twice[#twice + 1] = label end
  local shown = kind == "eq" and "(" .. number .. ")" or number
  targets[label] = { number = shown, text = NAMES[kind] .. "\u{a0}" .. shown }
end

-- SECTIONS

local function sections(blocks)
  local top, previous, counts, used = 9, 0, {}, {}
  blocks:walk { Header = function(header) top = math.min(top, header.level) end }
  return blocks:walk { Header = function(header)
    local level = math.min(header.level - top, previous) + 1
    previous = level
    local label = header.identifier ~= "" and header.identifier or "section"
    used[label] = (used[label] or 0) + 1
    if not label:match("^sec%-") then header.identifier = used[label] > 1 and label .. "-" .. used[label] or label end
    if report and not header.classes:includes("unnumbered") then
      counts[level] = (counts[level] or 0) + 1
      for deeper = level + 1, #counts do counts[deeper] = nil end
      local number = table.concat(counts, ".")
      if label:match("^sec%-") then define(label, "sec", number) end
      header.content:insert(1, pandoc.Span(number .. ".", { class = "number" }))
      header.content:insert(2, pandoc.Space())
    elseif label:match("^sec%-") then
      targets[label] = { number = stringify(header.content), text = stringify(header.content) }
    end
    header.classes = header.classes:filter(function(class) return class ~= "unnumbered" end)
    header.level = pdf and level or level + 1
    if not pdf then return header end
    return level > 1 and { typst("#before-run-in"), header } or header
  end }
end

-- FIGURES AND TABLES

local figures, tables, equations = 0, 0, 0

local function picture(image)
  local width = image.attributes.width
  local value, unit = (width or ""):match("^([%d.]+)(.*)$")
  if value and (unit == "px" or unit == "") then width = ("%.1fpt"):format(value * 0.75) end
  if not value then width = "auto" end
  return ("#picture(%s, %s, width: %s)"):format(quoted(image.src), quoted(stringify(image.caption)), width)
end

local function lone_picture(paragraph)
  if #paragraph.content ~= 1 or paragraph.content[1].t ~= "Image" then return nil end
  return { typst("#align(center, block(above: 1.2em, below: 1.2em)["), pandoc.Plain(paragraph.content), typst("])") }
end

local function figure(element)
  local label = element.identifier
  if not label:match("^fig%-") then return element.content end
  figures = figures + 1
  define(label, "fig", tostring(figures))
  local caption = pandoc.utils.blocks_to_inlines(element.caption.long)
  if not pdf then
    caption:insert(1, pandoc.Span("Figure\u{a0}" .. figures .. ".", { class = "label" }))
    caption:insert(2, pandoc.Space())
    element.caption = { long = { pandoc.Plain(caption) } }
    return element
  end
  local blocks = pandoc.Blocks { typst("#numbered(image, [Figure], \"" .. figures .. "\", [") }
  blocks:insert(pandoc.Plain(caption))
  blocks:insert(typst("], ["))
  blocks:extend(element.content)
  blocks:insert(typst("])<" .. label .. ">"))
  return blocks
end

local function data_table(element)
  local label = element.identifier
  local numbered = label:match("^tbl%-")
  local caption = pandoc.utils.blocks_to_inlines(element.caption.long)
  element.caption, element.identifier = { long = {} }, ""
  if numbered then
    tables = tables + 1
    define(label, "tbl", tostring(tables))
  end
  if not pdf then
    local open = numbered and ('<figure class="table" id="%s">'):format(label) or '<figure class="table">'
    local blocks = pandoc.Blocks { page(open) }
    if #caption > 0 then
      local name = numbered and { pandoc.Span("Table\u{a0}" .. tables .. ".", { class = "label" }), pandoc.Space() } or {}
      blocks:extend { page("<figcaption>"), pandoc.Plain(pandoc.Inlines(name) .. caption), page("</figcaption>") }
    end
    local box = '<div class="scroll" role="%s" tabindex="0" aria-label="%s">'
    local about = numbered and box:format("region", "Table " .. tables) or box:format("group", "Table")
    blocks:extend { page(about), element, page("</div></figure>") }
    return blocks
  end
  local rows = 0
  for _, body in ipairs(element.bodies) do rows = rows + #body.body end
  element.classes:insert("typst:no-figure")
  local fitted = "#fitted(columns: " .. #element.colspecs .. ")"
  local blocks = pandoc.Blocks {}
  if numbered then
    blocks:extend { typst("#numbered(table, [Table], \"" .. tables .. "\", ["), pandoc.Plain(caption), typst("], [" .. fitted .. "[") }
    blocks:extend { element, typst("]], rows: " .. rows .. ")<" .. label .. ">") }
  else
    blocks:extend { typst("#align(center, block(above: 1.2em, below: 1.2em, width: 100%)[" .. fitted .. "["), element, typst("]])") }
  end
  return blocks
end

-- EQUATIONS

-- Upright bold letters by their code points: in MathML, Pandoc makes \mathbf slanted.
local function bold(braced)
  if not braced:match("^{%a+}$") then return nil end
  local made = braced:sub(2, -2):gsub("%a", function(letter)
    return utf8.char(letter:match("%u") and 0x1d400 + letter:byte() - 65 or 0x1d41a + letter:byte() - 97)
  end)
  return "{" .. made .. "}"
end

-- Norms as fences: Pandoc reads a bare \| as the relation "parallel".
local function norms(math)
  local kept = { ["\\\\|"] = "\1", ["\\left\\|"] = "\2", ["\\right\\|"] = "\3" }
  local text = math.text
  for tex, mark in pairs(kept) do text = text:gsub(tex, mark) end
  text = text:gsub("\\|(.-)\\|", "\\lVert %1 \\rVert ")
  for tex, mark in pairs(kept) do text = text:gsub(mark, tex) end
  if not pdf then text = text:gsub("\\mathbf%s*(%b{})", bold) end
  math.text = text
  return math
end

local function typst_math(math, number)
  local options = pandoc.WriterOptions { wrap_text = "none" }
  local source = pandoc.write(pandoc.Pandoc { pandoc.Plain { math } }, "typst", options):gsub("%s+$", "")
  if not source:match("^%$.*%$$") then return nil end -- TeX that Pandoc does not know is printed as it is
  local numbering = number and ", number: " .. quoted(number) or ""
  return ("#formula(%s, %s%s)"):format(quoted(math.text:gsub("^%s+", ""):gsub("%s+$", "")), source, numbering)
end

local THIN = '<mspace width="0.167em"></mspace>'
local FUNCTION = "<mrow><mi[^>]*>%w+</mi><mo>\u{2061}</mo></mrow>"
local WRAPPER = "<m[suo][bpvun]%l+>" -- of a function that has an index or an exponent
local OPERANDS = { mi = 1, mn = 1, msub = 1, msup = 1, msubsup = 1, mfrac = 1 }
local NARROW = { ["\u{302}"] = "ˆ", ["\u{303}"] = "˜", ["\u{307}"] = "˙", ["\u{308}"] = "¨" }

-- MathML with what TeX does and browsers do not: a thin space in "log x", hats as narrow as their letter, plain norm bars.
local function mathml(math)
  local options = pandoc.WriterOptions { html_math_method = "mathml", wrap_text = "none" }
  local page = pandoc.write(pandoc.Pandoc { pandoc.Plain { math } }, "html", options)
  page = page:gsub("%s+$", ""):gsub("&#8289;", "\u{2061}")
  local function apart(last, rest) return OPERANDS[last] and ("</%s>%s%s"):format(last, THIN, rest) end
  page = page:gsub("</(m%l+)>(" .. FUNCTION .. ")", apart):gsub("</(m%l+)>(" .. WRAPPER .. FUNCTION .. ")", apart)
  page = page:gsub("()" .. FUNCTION .. "()", function(from, to)
    local bare = page:sub(to, to + 2) ~= "<mo" and not page:sub(1, from - 1):match(WRAPPER .. "$")
    return page:sub(from, to - 1) .. (bare and THIN or "")
  end)
  local function primed(letter, primes)
    return "<mrow>" .. letter .. "<mo>" .. primes:gsub("<[^>]+>", ""):gsub("″", "′′") .. "</mo></mrow>"
  end
  for _, primes in ipairs { "<mo>(′)</mo>", "<mo>(″)</mo>", "<mrow>(<mi>′.-)</mrow>" } do
    page = page:gsub("<msup>(<mi>[^<]+</mi>)" .. primes .. "</msup>", primed)
  end
  for mark, narrow in pairs(NARROW) do
    local accent = '<mover>(<mi[^>]*>[^<]+</mi><mo) accent="true">' .. mark
    page = page:gsub(accent, '<mover accent="true">%1 stretchy="false">' .. narrow)
  end
  return pandoc.RawInline("html", (page:gsub('<mo stretchy="true"( form="%l+")>‖', '<mo stretchy="false"%1>‖')))
end

local function numbered_equations(content)
  local out, i = pandoc.Inlines {}, 1
  while i <= #content do
    local item, j = content[i], i + 1
    local display = item.t == "Math" and item.mathtype == "DisplayMath"
    while display and content[j] and (content[j].t == "Space" or content[j].t == "SoftBreak") do j = j + 1 end
    local label, rest = (display and content[j] and content[j].t == "Str" and content[j].text or ""):match("^{#(eq%-[%w-]+)}(.*)$")
    if label then
      equations = equations + 1
      local number = "(" .. equations .. ")"
      define(label, "eq", tostring(equations))
      local source = pdf and typst_math(item, number)
      if source then
        out:insert(pandoc.RawInline("typst", source .. "<" .. label .. ">"))
      else
        out:insert(pandoc.Span({ item, pandoc.Span(number, { class = "number" }) }, { id = label, class = "equation" }))
      end
      if rest ~= "" then out:insert(pandoc.Str(rest)) end
      i = j + 1
    else
      out:insert(item)
      i = i + 1
    end
  end
  return out
end

local function formula(math)
  local source = typst_math(math)
  return source and pandoc.RawInline("typst", source .. ";")
end

-- REFERENCES

local function reference(citation, place)
  local target = targets[citation.id]
  if target then
    local text = citation.mode == "SuppressAuthor" and target.number or target.text
    return pandoc.Link(text, "#" .. citation.id, "", { class = "reference" })
  end
  unresolved[#unresolved + 1] = "@" .. citation.id .. (" (in " .. place .. ")")
  return pandoc.Code(citation.id)
end

local function cite(element, place, known)
  local first = element.citations[1].id
  if not NAMES[first:match("^(%a+)%-") or ""] then
    for _, citation in ipairs(element.citations) do
      if not known[citation.id] then
        if not report then return pandoc.Span(element.content) end
        reference(citation, place)
      end
    end
    return element
  end
  local out = pandoc.Inlines {}
  for i, citation in ipairs(element.citations) do
    if i > 1 then out:insert(pandoc.Str(i == #element.citations and " and " or ", ")) end
    out:extend(citation.prefix)
    if #citation.prefix > 0 then out:insert(pandoc.Space()) end
    out:insert(reference(citation, place))
    out:extend(citation.suffix)
  end
  return out
end

local function references(document, known)
  return document:walk {
    traverse = "topdown",
    Span = function(span)
      local inner = span.attributes.place and span.content[1]
      if not inner or inner.t ~= "Cite" then return nil end
      return cite(inner, span.attributes.place, known), false
    end,
    Cite = function(element) return cite(element, "report.yaml", known), false end,
  }
end

-- Links within the page need a target; Jupyter spells anchors as the heading, words joined by hyphens.
local function anchors(document)
  local ids = {}
  for label in pairs(targets) do ids[label] = true end
  local collect = function(element) if element.identifier ~= "" then ids[element.identifier] = true end end
  document:walk { Header = collect, Div = collect, Span = collect }
  return document:walk { Link = function(link)
    local id = link.target:match("^#(.*)$")
    if not id or ids[id] then return nil end
    local slug = id:lower():gsub("[^%w%-_.\u{80}-\u{10ffff}]", ""):gsub("^[^%a]+", "")
    if not ids[slug] then return link.content end
    link.target = "#" .. slug
    return link
  end }
end

local function acknowledgements(document)
  local text = document.meta.acknowledgements
  if not text or stringify(text) == "" then return end
  document.blocks:insert(pandoc.Header(pdf and 1 or 2, "Acknowledgements", { id = "acknowledgements" }))
  document.blocks:extend(pandoc.utils.type(text) == "Blocks" and text or { pandoc.Para(text) })
end

-- The appendix comes last, after the references, as small as these.
local function appendix(document)
  local last, rest = pandoc.Blocks {}, pandoc.Blocks {}
  for _, block in ipairs(document.blocks) do
    if block.t == "Div" and block.identifier == "fmnist-appendix" then last = block.content else rest:insert(block) end
  end
  if pdf then rest:insert(typst("#set text(size: 8pt)")) end
  return pandoc.Pandoc(rest .. last, document.meta)
end

local function bibliography(document)
  local entries, rest = nil, pandoc.Blocks {}
  for _, block in ipairs(document.blocks) do
    if block.t == "Div" and block.identifier == "refs" then entries = block else rest:insert(block) end
  end
  if not entries or #entries.content == 0 then return pandoc.Pandoc(rest, document.meta) end
  rest:insert(pandoc.Header(pdf and 1 or 2, "References", { id = "references" }))
  if not pdf then
    rest:insert(entries)
    return pandoc.Pandoc(rest, document.meta)
  end
  for _, entry in ipairs(entries.content) do
    targets[entry.identifier] = {}
    local parts = entry.content[1].content
    local number, text = parts[1].content, parts[#parts].content
    rest:extend { typst("#entry["), pandoc.Plain(number), typst("]["), pandoc.Plain(text), typst("]<" .. entry.identifier .. ">") }
  end
  return pandoc.Pandoc(rest, document.meta)
end

-- THE DOCUMENT

-- Typst breaks lines of code at spaces only.
local function long_lines(block)
  block.text = block.text:gsub("%S+", function(word)
    if (utf8.len(word) or 0) <= 80 then return word end
    local parts, from = {}, 1
    while from <= #word do
      local to = utf8.offset(word, 81, from) or #word + 1
      parts[#parts + 1] = word:sub(from, to - 1)
      from = to
    end
    return table.concat(parts, "\n")
  end)
  return block
end

local function code(div)
  if not div.classes:includes("fmnist-code") then return nil end
  if pdf then return report and {} or div.content end
  local blocks = pandoc.Blocks { page('<details class="code"><summary>Code</summary>') }
  for _, block in ipairs(div.content) do
    local notebook, cell = block.attributes.notebook, block.attributes.cell
    if notebook then
      local name = pandoc.Inlines { pandoc.Str(notebook .. ".ipynb, "), pandoc.Str(cell) }
      local link = pandoc.Link(name, "../notebooks/" .. notebook .. ".ipynb#cell-id=" .. cell)
      blocks:extend { page('<p class="source">'), pandoc.Plain { link }, page("</p>") }
    end
    block.attributes = {}
    blocks:insert(block)
  end
  blocks:insert(page("</details>"))
  return blocks
end

local function fail(problem, labels)
  if #labels == 0 then return end
  io.stderr:write("USER: ", problem, ": ", table.concat(labels, ", "), "\n")
  os.exit(70)
end

local function names(meta)
  local list = pandoc.List {}
  for _, author in ipairs(meta.authors or {}) do list:insert(stringify(author.name)) end
  meta["author-names"] = list:map(pandoc.MetaString)
  local last = #list > 1 and list:remove() or nil
  meta["running-authors"] = table.concat(list, ", ") .. (last and " and " .. last or "")
  list:insert(last)
  local strings = list:map(quoted):map(function(name) return name .. ", " end)
  meta["author-strings"] = pandoc.MetaInlines { pandoc.RawInline("typst", "(" .. table.concat(strings) .. ")") }
  meta["title-string"] = pandoc.MetaInlines { pandoc.RawInline("typst", quoted(stringify(meta.title or ""))) }
  meta.pagetitle = stringify(meta.title or "")
  meta["running-title"] = #meta.pagetitle > 70 and meta.pagetitle:match(": (.+)$") or meta.title -- on one line
end

local SIGNS = { ["×"] = true, ["±"] = true, ["="] = true, ["<"] = true, [">"] = true, ["≤"] = true, ["≥"] = true, ["−"] = true }

-- No line ends within "95 %", "p < 0.05" or "28 × 28".
local function ties(inlines)
  for i = 2, #inlines - 1 do
    local before, after = inlines[i - 1].text or "", inlines[i + 1].text or ""
    local unit = before:match("%d$") and after:match("^%%")
    local sign = SIGNS[after] and (before:match("%d$") or #before < 5) or SIGNS[before] and after:match("^%d")
    if (unit or sign) and (inlines[i].t == "Space" or inlines[i].t == "SoftBreak") then inlines[i] = pandoc.Str("\u{a0}") end
  end
  return inlines
end

function Pandoc(document)
  pdf = FORMAT:match("typst") ~= nil
  report = document.meta.ours == true
  local strict = document.meta.report == true and document.meta.gaps ~= true -- a gap leaves references to nothing
  if stringify(document.meta.bibliography or "") == "" then document.meta.bibliography = nil end
  names(document.meta)
  document.blocks = sections(document.blocks)
  acknowledgements(document)
  document = document:walk { Div = code, Math = norms }
  document = document:walk { Inlines = numbered_equations }
  document = document:walk { Figure = figure }
  document = document:walk { Table = data_table }
  local known = {}
  for _, entry in ipairs(pandoc.utils.references(document)) do known[entry.id] = true end
  document = references(document, known)
  fail("labels used twice (each names one thing)", twice)
  fail("references to nothing (no such label, no such entry in the bibliography)", strict and unresolved or {})
  if document.meta.bibliography then document = pandoc.utils.citeproc(document) end
  document = anchors(appendix(bibliography(document))):walk { Inlines = ties }
  if not pdf then document = document:walk { Math = mathml } end
  if pdf then
    document = document:walk { Para = lone_picture }
    document = document:walk {
      Math = formula,
      CodeBlock = long_lines,
      Image = function(image) return pandoc.RawInline("typst", picture(image) .. ";") end,
    }
  end
  return document
end
